"""SparK against upstream's golden tensors."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.parity.cases import Case, assert_close, dispatch, find_cases
from zoo.data.epoch_batches import epoch_batch, steps_per_epoch
from zoo.models.spark import ConvNeXt, LightDecoder, SparK, SparseEncoder, remap_upstream
from zoo.models.spark.convnext import LayerNorm2d
from zoo.models.spark.masking import mask_layers
from zoo.models.spark.network import Backend, sample_mask
from zoo.models.spark.sparse_layers import sparsify_layers
from zoo.models.spark.visible import VisibleCells
from zoo.tasks.annealed_decay import AnnealedDecay, convnext_layer, decay_groups, layer_scales, resnet_layer
from zoo.tasks.lamb import LAMB


def _parse_layer(text: str, width: int) -> tuple[nn.Module, int]:
    """A layer from its description, as in ``Conv2d(3,12,k3,s2,p1,bias)``, and the channels behind it."""
    if text == "BN":
        return nn.BatchNorm2d(width), width
    name, _, inner = text.removesuffix(")").partition("(")
    words = [word for word in inner.split(",") if word]
    if name in ("ReLU", "LeakyReLU"):
        return getattr(nn, name)(*(float(word) for word in words)), width
    numbers = [int(word) for word in words if word.isdigit()]
    named = {"k": "kernel_size", "s": "stride", "p": "padding", "dilation": "dilation", "groups": "groups"}
    options: dict[str, Any] = {}
    for word in words:
        match = re.fullmatch(r"(k|s|p|dilation|groups)(\d+)", word)
        if match:
            options[named[match[1]]] = int(match[2])
        elif word == "ceil_mode":
            options["ceil_mode"] = True
    if name == "Conv2d":
        kernel = options.pop("kernel_size", numbers[2] if len(numbers) > 2 else 1)
        return nn.Conv2d(numbers[0], numbers[1], kernel, bias="bias" in words, **options), numbers[1]
    options.setdefault("kernel_size", numbers[0])
    if len(numbers) > 1:
        options["stride"] = numbers[1]
    return getattr(nn, name)(**options), width


class CustomCNN(nn.Module):
    """The network that a case describes layer by layer."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config, width = config, 3
        for name, texts in config["modules"].items():
            layers = []
            for text in texts:
                layer, width = _parse_layer(text.replace("no bias", "nobias"), width)
                layers.append(layer)
            setattr(self, name, nn.Sequential(*layers))
        self.outputs = re.findall(r"\w+", config["outputs"].split("]")[0])

    def get_downsample_ratio(self) -> int:
        return self.config["downsample_ratio"]

    def get_feature_map_channels(self) -> list[int]:
        return self.config["feature_map_channels"]

    def forward(self, x: Tensor, hierarchical: bool = True) -> list[Tensor]:
        assert hierarchical
        maps = {}
        for name in self.config["modules"]:
            x = maps[name] = getattr(self, name)(x)
        return [maps[name] for name in self.outputs]


def build_backbone(config: dict[str, Any]) -> nn.Module:
    """The encoder of a case."""
    family = config["family"]
    if "ResNet" in family:
        resnet = pytest.importorskip("timm.models.resnet", reason="timm (extra image) is not installed")
        block = getattr(resnet, config["block"])
        return resnet.ResNet(block, config["layers"], channels=config["planes"], num_classes=0, global_pool="")
    if "ConvNeXt" in family:
        return ConvNeXt(depths=config["depths"], dims=config["dims"], drop_path=config["drop_path"])
    return CustomCNN(config)


def build_spark(case: Case, backend: Backend = "masked_dense") -> SparK:
    config = case.config
    norm = config["densify_norm"]
    model = SparK(
        backbone=build_backbone(config["encoder"]),
        decoder_width=config["decoder_width"],
        densify_norm=norm if norm in ("bn", "ln") else "identity",
        mask_ratio=config.get("mask_ratio", 0.6),
        backend=backend,
    )
    model.load_state_dict(remap_upstream(case.group("state")), strict=True)
    return model


class OneLayer:
    """A single layer in a back-end, from maps to maps."""

    def __init__(self, layer: nn.Module, mask: Tensor, backend: Backend, *, channels_last: bool = False) -> None:
        self.visible, self.backend, self.channels_last = VisibleCells(), backend, channels_last
        self.visible.show(mask.bool())
        self.layer = (mask_layers if backend == "masked_dense" else sparsify_layers)(layer, self.visible)

    def __call__(self, x: Tensor) -> Tensor:
        if self.backend == "masked_dense":
            return self.layer(x)
        last, first = (0, 2, 3, 1), (0, 3, 1, 2)
        strip = self.visible.gather(x.permute(first) if self.channels_last else x)
        out = self.layer(strip.permute(last)).permute(first) if self.channels_last else self.layer(strip)
        dense = self.visible.scatter(out)
        return dense.permute(last) if self.channels_last else dense


def _close(actual: Tensor, expected: Tensor, mode: str, what: str) -> None:
    rtol, peak = {"eval": (1e-4, 1e-5), "train": (1e-3, 1e-4), "grad": (1e-2, 1e-3)}[mode]
    assert_close(actual, expected, rtol=rtol, atol=peak * float(expected.abs().max()), what=f"{mode} {what}")


def check_whole(case: Case, backend: Backend = "masked_dense") -> None:
    image, mask = case["input/image"].requires_grad_(), case["input/active_b1ff"].bool()
    for mode in ("eval", "train"):
        model = build_spark(case, backend).train(mode == "train")
        result = model(image, mask)
        expected = case.group(f"output/{mode}")
        found = {
            "loss": result.loss.reshape(1),
            "rec_bchw": result.image,
            "patch_mean": result.patch_mean,
            "patch_std": result.patch_std,
            "patch_loss": result.patch_loss,
            "vis_masked": image * model.encoder.visible.at(*image.shape[2:]),
            "vis_rec_or_inp": model.fill(image, result),
            **{f"enc_feat{i}": value for i, value in enumerate(result.maps) if value is not None},
            **{f"to_dec{i}": value for i, value in enumerate(result.decoder_inputs) if value is not None},
        }
        if mode == "train":
            result.loss.backward()
            assert image.grad is not None
            found["input_grad"] = image.grad
            after = remap_upstream({key[6:]: 0 for key in expected if key.startswith("after/")})
            state = model.state_dict()
            for old, new in zip((key for key in expected if key.startswith("after/")), after, strict=True):
                found[old] = state[new]
            _check_gradients(case, model)
        for name, value in expected.items():
            _close(found[name], value, mode, name)


def _check_gradients(case: Case, model: nn.Module) -> None:
    expected = remap_upstream(case.group("grad"))
    largest = max(float(value.abs().max()) for value in expected.values())
    parameters = {name: p for name, p in model.named_parameters() if p.grad is not None}
    assert parameters.keys() == expected.keys()
    for name, value in expected.items():
        grad = parameters[name].grad
        assert grad is not None
        atol = 1e-3 * max(float(value.abs().max()), 1e-3 * largest)
        assert_close(grad, value, rtol=1e-2, atol=atol, what=f"grad {name}")


def _keep_corner(seen: dict[str, Tensor], name: str, encoder: SparseEncoder) -> Any:
    def hook(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
        seen[name] = encoder.dense(out)[:1, :8].clone()

    return hook


def check_encoder(case: Case, backend: Backend = "masked_dense") -> None:
    for mode in ("eval", "train"):
        encoder = SparseEncoder(build_backbone(case.config["encoder"]), backend=backend)
        state = {"backbone." + key.removeprefix("sp_cnn."): value for key, value in case.group("state").items()}
        encoder.load_state_dict(state, strict=True)
        encoder.train(mode == "train")
        seen: dict[str, Tensor] = {}
        for name in ("conv1", "bn1", "maxpool"):
            module = encoder.backbone.get_submodule(name)
            module.register_forward_hook(_keep_corner(seen, name, encoder))
        for index, value in enumerate(encoder(case["input/masked_image"], case["input/active_b1ff"].bool())):
            assert value is not None
            seen[f"feat{index}"] = value
        for key, value in encoder.state_dict().items():
            seen["after/sp_cnn." + key.removeprefix("backbone.")] = value
        for name, value in case.group(f"output/{mode}").items():
            _close(seen[name], value, mode, name)


def check_decoder(case: Case) -> None:
    inputs = case.group("input")
    for mode in ("eval", "train"):
        decoder = LightDecoder(stride=case.config["up_sample_ratio"], width=case.config["width"]).train(mode == "train")
        decoder.load_state_dict(case.group("state"), strict=True)
        last = 1 + max(int(key[6:]) for key in inputs if key.startswith("to_dec"))
        maps = [inputs[f"to_dec{i}"].clone().requires_grad_() if f"to_dec{i}" in inputs else None for i in range(last)]
        out = decoder(maps)
        _close(out, case[f"output/{mode}"], mode, "image")
        if mode == "train":
            (out * inputs["grad_output"]).sum().backward()
            grads = {name: p.grad for name, p in decoder.named_parameters()}
            grads |= {f"input.to_dec{i}": m.grad for i, m in enumerate(maps) if m is not None}
            grads |= {f"to_dec{i}": m.grad for i, m in enumerate(maps) if m is not None}
            for name, value in case.group("grad").items():
                grad = grads[name]
                assert grad is not None
                _close(grad, value, "grad", name)
            state = decoder.state_dict()
            for name, value in case.group("output/train_after").items():
                _close(state[name], value, mode, name)


def check_masked_ops(case: Case, backend: Backend = "masked_dense") -> None:
    mask = case["input/active_b1ff"]
    active = mask.repeat_interleave(8, 2).repeat_interleave(8, 3)
    for name, spec in case.config["convs"].items():
        conv = nn.Conv2d(
            spec["in_channels"],
            spec["out_channels"],
            spec["kernel"],
            stride=spec["stride"],
            padding=spec["padding"],
            dilation=spec["dilation"],
            groups=spec["groups"],
            bias=spec["bias"],
        )
        conv.load_state_dict({key: case[f"state/{name}.{key}"] for key in conv.state_dict()})
        layer = OneLayer(conv, mask, backend)
        x = case["input/x"].clone().requires_grad_()
        out = layer(x)
        assert_close(out, case[f"output/{name}"], rtol=1e-4, atol=1e-5, what=name)
        out.backward(case[f"input/{name}.grad_output"])
        grads = {"input": x.grad, **{key: p.grad for key, p in layer.layer.named_parameters()}}
        for key, grad in grads.items():
            assert grad is not None
            expected = case[f"grad/{name}.{key}"]
            if key == "input" and backend == "sparse":
                expected = expected * active  # masked cells are never read
            # sums that cancel: the case changes the relative tolerance for gradients, the absolute one stands
            assert_close(grad, expected, rtol=1e-3, atol=1e-5, what=f"{name} {key}")
    for name, text in case.config["pools"].items():
        kernel, stride, padding = (int((re.search(p, text) or [0, 0])[1]) for p in (r"^(\d+)", r"s(\d+)", r"p(\d+)"))
        options = {"count_include_pad": False} if "count_include_pad=False" in text else {}
        kind = nn.MaxPool2d if name.startswith("max") else nn.AvgPool2d
        layer = OneLayer(kind(kernel, stride, padding, **options), mask, backend)
        assert_close(layer(case["input/x"]), case[f"output/{name}"], rtol=1e-4, atol=1e-5, what=name)
        relu = layer(case["input/x"].relu())
        assert_close(relu, case[f"output/{name}.relu_input"], rtol=1e-4, atol=1e-5, what=name)


def check_norms(case: Case, backend: Backend = "masked_dense") -> None:
    mask, x1, x2 = case["input/active_b1ff"], case["input/x1"], case["input/x2"]
    states = case.group("state")
    bn_state = {key[3:]: value for key, value in states.items() if key.startswith("bn.")}
    channels = x1.shape[1]
    spec = case.config["batchnorm"]
    norm = OneLayer(nn.BatchNorm2d(channels, eps=spec["eps"], momentum=spec["momentum"]), mask, backend)
    bn = norm.layer
    bn.load_state_dict(bn_state, strict=True)
    bn.eval()
    found: dict[str, Tensor] = {"bn_eval_x1": norm(x1)}
    for step, x in ((1, x1), (2, x2)):
        x = x.clone().requires_grad_()
        bn.train()
        out = norm(x)
        found[f"bn_train_x{step}"] = out
        for key, value in bn.state_dict().items():
            found[f"after{step}/bn.{key}"] = value.clone()
        if step == 1:
            (out * x2).sum().backward()
            grads = {"input": x.grad, "weight": bn.weight.grad, "bias": bn.bias.grad}
            for key, name in {"input": "bn_train_x1.input", "weight": "bn.weight", "bias": "bn.bias"}.items():
                grad = grads[key]
                assert isinstance(grad, Tensor)
                assert_close(grad, case[f"grad/{name}"], rtol=1e-5, atol=1e-5, what=name)
    bn.eval()
    found["bn_eval_x2_after2"] = norm(x2)
    for layout, kind in (("channels_first", LayerNorm2d), ("channels_last", nn.LayerNorm)):
        for density in ("sparse", "dense"):
            norm = kind(channels, eps=case.config["layernorm"]["eps"])
            norm.load_state_dict({key: states[f"ln.{key}"] for key in norm.state_dict()})
            is_last = layout == "channels_last"
            layer = OneLayer(norm, mask, backend, channels_last=is_last) if density == "sparse" else norm
            turn = (0, 1, 2, 3) if layout == "channels_first" else (0, 2, 3, 1)
            x = x1.permute(turn).clone().requires_grad_()
            out = layer(x)
            found[f"ln_{layout}_{density}"] = out
            (out * x2.permute(turn)).sum().backward()
            grads = {"input": x.grad, **{key: p.grad for key, p in norm.named_parameters()}}
            for key, grad in grads.items():
                name = f"grad/ln_{layout}_{density}.{key}"
                if name in case:
                    assert grad is not None
                    assert_close(grad, case[name], rtol=1e-5, atol=1e-5, what=name)
    for name, value in case.group("output").items():
        assert_close(found[name], value, rtol=1e-5, atol=1e-5, what=name)


def check_mask_sampling(case: Case) -> None:
    for index, spec in enumerate(case.meta["config"]):
        generator = torch.Generator().manual_seed(spec["seed"])
        mask = sample_mask(spec["B"], spec["h"], spec["w"], spec["mask_ratio"], generator)
        assert int(mask[0].sum()) == spec["len_keep"]
        assert torch.equal(mask, case[f"output/mask{index}"].bool())


def _numbers(pattern: str, text: str) -> list[float]:
    """The groups of a pattern that stands in a case's prose."""
    found = re.search(pattern.replace("NUMBER", r"([\d.]+(?:e-?\d+)?)"), text)
    assert found, f"{text!r} says nothing like {pattern!r}"
    return [float(number) for number in found.groups()]


def _annealing(text: str, optimizer: torch.optim.Optimizer, total_steps: int) -> AnnealedDecay:
    """The schedule that a case describes, as in ``peak lr 0.03, wd 0.04 -> 0.2, warm-up 1 iteration``."""
    start, end = _numbers("wd NUMBER -> NUMBER", text)
    (warmup,) = _numbers("warm-up NUMBER", text)
    return AnnealedDecay(
        optimizer, total_steps=total_steps, warmup_steps=int(warmup), weight_decay=start, weight_decay_end=end
    )


def check_lamb(case: Case) -> None:
    text = case.meta["description"]
    ((lr,), (total,)) = _numbers("peak lr NUMBER", text), _numbers("NUMBER iterations in total", text)
    for variant in ("pretrain", "finetune"):
        spec, names = case.config[variant], case.config["groups"]
        parameters = {key: nn.Parameter(value.clone()) for key, value in case.group("state").items()}
        groups = decay_groups(parameters.items())
        assert {frozenset(group["names"]) for group in groups} == {frozenset(v) for v in names.values()}
        optimizer = LAMB(
            groups,
            lr=lr,
            betas=tuple(spec["betas"]),
            eps=spec["eps"],
            max_grad_norm=spec["max_grad_norm"],
            bias_correction=spec["bias_correction"],
            always_adapt=spec["always_adapt"],
        )
        schedule = _annealing(text, optimizer, int(total))
        for step in range(int(total)):
            for key, parameter in parameters.items():
                parameter.grad = case[f"input/grad_step{step}.{key}"].clone()
            optimizer.step()
            schedule.step()
            for key, parameter in parameters.items():
                expected = case[f"output/{variant}/step{step}.{key}"]
                assert_close(parameter, expected, rtol=1e-5, atol=1e-6, what=f"{variant} {step} {key}")


def check_schedule(case: Case) -> None:
    values = case.meta["values"]
    for name in sorted({key.split(".")[0].removeprefix("output/") for key in case.tensors}):
        spec = values[name]
        base, power = _numbers(r"^NUMBER\*\*NUMBER$", str(spec.get("lr_scale", "1**1")))
        group = {"params": [nn.Parameter(torch.zeros(1))], "lr_scale": base**power}
        optimizer = torch.optim.SGD([group], lr=spec["base_lr"] * spec["bs"] / 256)
        total = spec["ep"] * spec["iters"]
        schedule = AnnealedDecay(
            optimizer,
            total_steps=total,
            warmup_steps=spec["wp"] * spec["iters"],
            weight_decay=spec["wd"],
            weight_decay_end=spec.get("wde"),
        )
        found = []
        for _ in range(total):
            found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]))
            optimizer.step()
            schedule.step()
        rates, decays = torch.tensor(found, dtype=torch.float64).unbind(1)
        assert_close(rates, case[f"output/{name}.lr"], rtol=1e-6, what=f"{name} lr")
        assert_close(decays, case[f"output/{name}.wd"], rtol=1e-6, what=f"{name} wd")
    _check_groups(case, values)
    for name, spec in values["sampler"]["cases"].items():
        match = re.fullmatch(r"world(\d+)_rank(\d+)_n(\d+)_glb(\d+)_fill(True|False)", name)
        assert match is not None
        world, rank, count, batch = (int(match[i]) for i in range(1, 5))
        assert steps_per_epoch(count, batch) == spec["len"]
        for step, expected in enumerate(spec["first_two_epochs"]):
            fill = match[5] == "True"
            indices = epoch_batch(
                step, num_samples=count, batch_size=batch, world_size=world, rank=rank, fill=fill, seed=1
            )
            assert indices == expected, f"{name} step {step}"


def _check_groups(case: Case, values: dict[str, Any]) -> None:
    for name, spec in values["pretrain_param_groups"].items():
        other = Case(case.path.with_name(f"{name}.json"))
        groups = decay_groups((key, nn.Parameter(value)) for key, value in other.group("grad").items())
        found = {key: [g["lr_scale"], g["weight_decay_scale"]] for g in groups for key in g["names"]}
        assert found == spec["groups"]
    for name, spec in values["finetune_layer_decay"].items():
        table, is_resnet = spec["layer_id_and_exponent_by_prefix"], name.startswith("resnet")
        pattern = r"layer(\d)\.(\d+)" if is_resnet else r"stages\.(\d)\.(\d+)"
        blocks = [(int(m[1]), int(m[2])) for prefix in table if (m := re.match(pattern, prefix))]
        depths = [1 + max(b for s, b in blocks if s == stage) for stage in sorted({s for s, _ in blocks})]
        layer_of = resnet_layer if is_resnet else convnext_layer
        for prefix, (layer, exponent) in table.items():
            found, last = layer_of(prefix + ".weight", depths)
            assert (found, last + 1 - found) == (layer, exponent), f"{name} {prefix}"
        if "groups" in spec:
            _check_scales(name, spec, depths)


def _check_scales(name: str, spec: dict[str, Any], depths: list[int]) -> None:
    with torch.device("meta"):
        if name.startswith("resnet"):
            timm = pytest.importorskip("timm", reason="timm (extra image) is not installed")
            model, layer_of = timm.create_model(name), resnet_layer
        else:
            model, layer_of = ConvNeXt(depths=depths, num_classes=1000), convnext_layer
    layers = {key: layer_of(key, depths) for key, _ in model.named_parameters()}
    groups = decay_groups(model.named_parameters(), layer_scales(layers, spec["lr_scale"]))
    found = {key: (g["lr_scale"], g["weight_decay_scale"]) for g in groups for key in g["names"]}
    assert found.keys() == spec["groups"].keys()
    for key, expected in spec["groups"].items():
        assert found[key] == pytest.approx(expected, rel=1e-6), key


def check_train_steps(case: Case, backend: Backend = "masked_dense") -> None:
    model = build_spark(case, backend).train()
    first, second, eps, norm = _numbers(
        r"betas \(NUMBER,NUMBER\), eps NUMBER, max_grad_norm NUMBER", case.config["optimizer"]
    )
    (lr,) = _numbers("peak lr NUMBER", case.config["schedule"])
    groups = decay_groups(model.named_parameters())
    optimizer = LAMB(groups, lr=lr, betas=(first, second), eps=eps, max_grad_norm=norm)
    total = len(case["output/losses"])
    schedule = _annealing(case.config["schedule"], optimizer, total)
    losses = []
    for step in range(total):
        optimizer.zero_grad()
        loss = model(case[f"input/image{step}"], case[f"input/active{step}"].bool()).loss
        loss.backward()
        losses.append(loss.detach())
        optimizer.step()
        schedule.step()
    assert_close(torch.stack(losses), case["output/losses"], rtol=5e-3, what="losses")
    state = model.state_dict()
    for key, value in case.group("output/after").items():
        (name,) = remap_upstream({key: 0})
        assert_close(state[name], value, atol=2e-2 * float(value.abs().max()), what=key)


ENCODING = {
    "spark_": check_whole,
    "encoder_": check_encoder,
    "masked_ops": check_masked_ops,
    "sparse_norms": check_norms,
    "train_steps_": check_train_steps,
}
HANDLERS = {
    **ENCODING,
    "light_decoder": check_decoder,
    "mask_sampling": check_mask_sampling,
    "lamb_steps": check_lamb,
    "schedule_and_groups": check_schedule,
}
STAND_INS = ("absent", "empty")


@pytest.mark.parametrize("case", find_cases("spark"))
def test_case(case: Case) -> None:
    dispatch(case, HANDLERS)


@pytest.mark.parametrize("case", [p for p in find_cases("spark") if p.id.startswith((*ENCODING, *STAND_INS))])
def test_case_in_the_sparse_backend(case: Case) -> None:
    dispatch(case, {name: partial(check, backend="sparse") for name, check in ENCODING.items()})
