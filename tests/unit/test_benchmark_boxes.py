"""The comparisons of rotated boxes and dense maps: both sides compute the same."""

from __future__ import annotations

from zoo.benchmark import boxes, dsvt


def test_every_case_has_a_name_and_agrees_with_its_peer(monkeypatch):
    small = {
        "CANDIDATES": 150,
        "PAIRS": 20,
        "ALIGNED": 30,
        "NUM_POINTS": 500,
        "NUM_BOXES": 7,
        "OBJECTS": 30,
        "VOXELS": 90,
    }
    for name, value in {**small, "ALIGNED": 30, "CHANNELS": 20, "MAP": 24, "FRAMES": 5}.items():
        monkeypatch.setattr(boxes, name, value)
    cases = list(boxes.cases())
    assert len({(case.case, case.what) for case in cases}) == len(cases) == 10
    for case in cases:
        result = case.ours()
        if case.peer is not None and case.compare is not None:
            case.compare(result, case.peer())
    assert next(iter(dsvt.cases())).what == cases[0].what
