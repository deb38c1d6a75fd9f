"""Convert weights: of upstream projects, to timm and detectron2, or of a run into a card: see --help."""

from zoo.convert import main

if __name__ == "__main__":
    raise SystemExit(main())
