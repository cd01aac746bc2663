"""Small models of many architectures, to be exported to ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Architecture:
    """A model to export: how to build it, and an example batch of two."""

    build: Callable[[], nn.Module]
    example: Callable[[], tuple[Tensor, ...]]


def image(channels: int = 3, size: int = 32) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(2, channels, size, size),)


def tokens(vocabulary: int = 50, length: int = 12) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randint(1, vocabulary, (2, length)),)


def features(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(2, *shape),)


def conv_bn(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([] if act is None else [act()]))


def head(channels: int, classes: int = 5) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


class Residual(nn.Module):
    def __init__(self, body: nn.Module, skip: nn.Module | None = None, act: bool = True) -> None:
        super().__init__()
        self.body, self.skip, self.act = body, skip or nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) + self.skip(x)
        return F.relu(y) if self.act else y


class Concat(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, gate: type[nn.Module] = nn.Hardsigmoid) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c // 2, 1), nn.ReLU(), nn.Conv2d(c // 2, c, 1), gate())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.body(x)
        return y


class ChannelShuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 8), conv_bn(8, 16, s=2), conv_bn(16, 16, s=2)
        self.up = nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1)
        self.d, self.e = conv_bn(32, 8), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        d = self.d(torch.cat([b, self.up(self.c(b))], 1))
        d = F.interpolate(d, scale_factor=2.0, mode="bilinear", align_corners=False)
        y: Tensor = self.e(torch.cat([a, d], 1)).mean((2, 3))
        return y


class ChannelsLastBlock(nn.Module):
    """A ConvNeXt block: depthwise convolution, layer norm over channels, MLP, layer scale."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.mlp = nn.Sequential(nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))
        self.scale = nn.Parameter(torch.full((c,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + (self.scale * self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return y


class VisionTransformer(nn.Module):
    def __init__(self, norm_first: bool = True) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        y: Tensor = self.head(self.norm(self.encoder(x))[:, 0])
        return y


class WindowAttention(nn.Module):
    """Shifted windows: roll, partition, attend, put back."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv, self.out = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48), nn.Linear(16, 16)
        self.bias, self.head = nn.Parameter(torch.randn(2, 16, 16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = torch.roll(x, (-2, -2), (1, 2)).view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(y).reshape(y.shape[0], 16, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        y = ((q * (c // 2) ** -0.5) @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).reshape(-1, 16, c))
        y = y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        logits: Tensor = self.head((x + torch.roll(y, (2, 2), (1, 2))).mean((1, 2)))
        return logits


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.n1, self.n2 = nn.Conv2d(3, 24, 8, 8), nn.LayerNorm(24), nn.LayerNorm(24)
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(24, 48), nn.GELU(approximate="tanh"), nn.Linear(48, 24))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.n1(x).transpose(1, 2)).transpose(1, 2)
        y: Tensor = self.head((x + self.channels(self.n2(x))).mean(1))
        return y


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.RNNBase], embed: bool = False, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 12) if embed else None
        self.rnn = kind(12, 16, batch_first=True, **options)
        self.head = nn.Linear(32 if options.get("bidirectional") else 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.rnn(x if self.embed is None else self.embed(x))[0][:, -1])
        return y


class TextCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.convs = nn.ModuleList([nn.Conv1d(16, 8, k) for k in (2, 3, 4)])
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).transpose(1, 2)
        y: Tensor = self.head(torch.cat([F.relu(conv(x)).amax(-1) for conv in self.convs], 1))
        return y


class RotaryDecoder(nn.Module):
    """RMS norm, rotary positions, causal grouped attention, gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.scale = nn.Embedding(50, 32), nn.Parameter(torch.ones(32))
        self.q, self.kv, self.o = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)
        self.gate, self.up, self.down = nn.Linear(32, 48), nn.Linear(32, 48), nn.Linear(48, 32)
        self.head = nn.Linear(32, 50, bias=False)
        angle = torch.arange(12).float().outer(10000 ** -(torch.arange(0, 8, 2) / 8))
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", torch.cat([angle, angle], -1).cos())
        self.register_buffer("sin", torch.cat([angle, angle], -1).sin())

    def norm(self, x: Tensor) -> Tensor:
        return self.scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    def rotate(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        h = self.norm(x)
        q = self.rotate(self.q(h).view(*h.shape[:2], 4, 8).transpose(1, 2))
        k, v = self.kv(h).view(*h.shape[:2], 2, 2, 8).permute(2, 0, 3, 1, 4)
        k, v = self.rotate(k).repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(h.shape)
        x = x + self.o(y)
        h = self.norm(x)
        logits: Tensor = self.head(x + self.down(F.silu(self.gate(h)) * self.up(h)))
        return logits


class Output(nn.Module):
    """A transformers model as a plain function of tensors."""

    def __init__(self, model: nn.Module, name: str, **options: Any) -> None:
        super().__init__()
        self.model, self.name, self.options = model, name, options

    def forward(self, x: Tensor) -> Tensor:
        keyword = "pixel_values" if x.is_floating_point() else "input_ids"
        # Without a mask, causal models look for packed sequences with operators the legacy exporter does not have.
        mask = {} if x.is_floating_point() else {"attention_mask": torch.ones_like(x)}
        y: Tensor = getattr(self.model(**{keyword: x}, **mask, **self.options), self.name)
        return y


def hub(model: str, config: str, name: str = "logits", options: dict[str, Any] | None = None, **values: Any) -> Callable[[], nn.Module]:
    """A transformers model with random weights and a small configuration."""

    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        return Output(getattr(transformers, model)(getattr(transformers, config)(**values)), name, **(options or {}))

    return build


_TEXT: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}

ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(lambda: nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 24), nn.ELU(), nn.Linear(24, 5)), features(12)),
    "lenet": Architecture(
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 12, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(432, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        ),
        image(1),
    ),
    "vgg": Architecture(
        lambda: nn.Sequential(
            conv_bn(3, 8), conv_bn(8, 8), nn.MaxPool2d(2), conv_bn(8, 16), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(1024, 5)
        ),
        image(),
    ),
    "resnet": Architecture(
        lambda: nn.Sequential(
            conv_bn(3, 8),
            Residual(nn.Sequential(conv_bn(8, 8), conv_bn(8, 8, act=None))),
            Residual(nn.Sequential(conv_bn(8, 16, s=2), conv_bn(16, 16, act=None)), conv_bn(8, 16, 1, 2, act=None)),
            *head(16),
        ),
        image(),
    ),
    "resnext": Architecture(
        lambda: nn.Sequential(
            conv_bn(3, 16, 7, 2),
            nn.MaxPool2d(3, 2, 1),
            Residual(nn.Sequential(conv_bn(16, 16, 1), conv_bn(16, 16, g=4), conv_bn(16, 32, 1, act=None)), conv_bn(16, 32, 1, act=None)),
            *head(32),
        ),
        image(),
    ),
    "mobilenet-v2": Architecture(
        lambda: nn.Sequential(
            conv_bn(3, 8, s=2, act=nn.ReLU6),
            Residual(
                nn.Sequential(conv_bn(8, 24, 1, act=nn.ReLU6), conv_bn(24, 24, g=24, act=nn.ReLU6), conv_bn(24, 8, 1, act=None)), act=False
            ),
            *head(8),
        ),
        image(),
    ),
    "mobilenet-v3": Architecture(
        lambda: nn.Sequential(
            conv_bn(3, 8, s=2, act=nn.Hardswish), conv_bn(8, 8, g=8), SqueezeExcite(8), conv_bn(8, 16, 1, act=nn.Hardswish), *head(16)
        ),
        image(),
    ),
    "efficientnet": Architecture(
        lambda: nn.Sequential(conv_bn(3, 8, s=2, act=nn.SiLU), conv_bn(8, 8, 5, g=8, act=nn.SiLU), SqueezeExcite(8, nn.Sigmoid), *head(8)),
        image(),
    ),
    "densenet": Architecture(
        lambda: nn.Sequential(
            conv_bn(3, 8),
            Concat(nn.Identity(), conv_bn(8, 4)),
            Concat(nn.Identity(), conv_bn(12, 4)),
            nn.AvgPool2d(2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            *head(16),
        ),
        image(),
    ),
    "inception": Architecture(
        lambda: nn.Sequential(
            conv_bn(3, 8),
            Concat(
                conv_bn(8, 4, 1),
                conv_bn(8, 4),
                nn.Sequential(conv_bn(8, 4, 1), conv_bn(4, 4, 5)),
                nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(8, 4, 1)),
            ),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            *head(16),
        ),
        image(),
    ),
    "shufflenet": Architecture(
        lambda: nn.Sequential(conv_bn(3, 8), conv_bn(8, 8, 1, g=2), ChannelShuffle(), conv_bn(8, 8, g=8, act=None), *head(8)), image()
    ),
    "squeezenet": Architecture(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(8, 4, 1),
            nn.ReLU(),
            Concat(nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)),
            nn.ReLU(),
            nn.Conv2d(16, 5, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        image(),
    ),
    "u-net": Architecture(UNet, image()),
    "convnext-own": Architecture(
        lambda: nn.Sequential(nn.Conv2d(3, 16, 4, 4), ChannelsLastBlock(16), ChannelsLastBlock(16), *head(16)), image()
    ),
    "style": Architecture(
        lambda: nn.Sequential(
            nn.ReflectionPad2d(2),
            nn.Conv2d(3, 8, 5),
            nn.InstanceNorm2d(8, affine=True),
            nn.LeakyReLU(0.1),
            nn.ReplicationPad2d(1),
            nn.Conv2d(8, 8, 3),
            nn.PReLU(8),
            nn.Upsample(scale_factor=2),
            *head(8),
        ),
        image(),
    ),
    "autoencoder": Architecture(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.GroupNorm(4, 16),
            nn.SiLU(),
            nn.Conv2d(16, 16, 3, 2, 1),
            nn.GroupNorm(4, 16),
            nn.Mish(),
            nn.ConvTranspose2d(16, 8, 4, 2, 1),
            nn.Softplus(),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.PixelShuffle(2),
            nn.Sigmoid(),
        ),
        image(),
    ),
    "conv-3d": Architecture(
        lambda: nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(256, 5)
        ),
        features(1, 8, 8, 8),
    ),
    "vit-own": Architecture(VisionTransformer, image()),
    "vit-post-norm": Architecture(lambda: VisionTransformer(False), image()),
    "swin-own": Architecture(WindowAttention, image()),
    "mixer": Architecture(Mixer, image()),
    "encoder": Architecture(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 2, enable_nested_tensor=False),
        features(9, 32),
    ),
    "lstm": Architecture(lambda: Recurrent(nn.LSTM, num_layers=2), features(9, 12)),
    "lstm-text": Architecture(lambda: Recurrent(nn.LSTM, embed=True, bidirectional=True), tokens()),
    "gru": Architecture(lambda: Recurrent(nn.GRU, bidirectional=True), features(9, 12)),
    "rnn": Architecture(lambda: Recurrent(nn.RNN, nonlinearity="relu"), features(9, 12)),
    "text-cnn": Architecture(TextCNN, tokens()),
    "rotary-decoder": Architecture(RotaryDecoder, tokens()),
    "bert": Architecture(hub("BertForSequenceClassification", "BertConfig", num_labels=5, **_TEXT), tokens()),
    "roberta": Architecture(
        hub("RobertaForSequenceClassification", "RobertaConfig", num_labels=5, **{**_TEXT, "max_position_embeddings": 40}), tokens()
    ),
    "distilbert": Architecture(
        hub(
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            vocab_size=50,
            dim=32,
            n_layers=2,
            n_heads=4,
            hidden_dim=48,
            num_labels=5,
        ),
        tokens(),
    ),
    "electra": Architecture(hub("ElectraForSequenceClassification", "ElectraConfig", embedding_size=16, num_labels=5, **_TEXT), tokens()),
    "gpt2": Architecture(
        hub("GPT2LMHeadModel", "GPT2Config", options={"use_cache": False}, vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32),
        tokens(),
    ),
    "llama": Architecture(hub("LlamaForCausalLM", "LlamaConfig", options={"use_cache": False}, num_key_value_heads=2, **_TEXT), tokens()),
    "qwen2": Architecture(hub("Qwen2ForCausalLM", "Qwen2Config", options={"use_cache": False}, num_key_value_heads=2, **_TEXT), tokens()),
    "t5-encoder": Architecture(
        hub("T5EncoderModel", "T5Config", "last_hidden_state", vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
        tokens(),
    ),
    "vit": Architecture(hub("ViTForImageClassification", "ViTConfig", **_VISION), image()),
    "deit": Architecture(hub("DeiTForImageClassification", "DeiTConfig", **_VISION), image()),
    "swin": Architecture(
        hub(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
            num_labels=5,
        ),
        image(),
    ),
    "resnet-hub": Architecture(
        hub(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 2],
            layer_type="bottleneck",
            num_labels=5,
        ),
        image(),
    ),
    "convnext": Architecture(
        hub("ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[8, 16], depths=[1, 2], num_stages=2, num_labels=5), image()
    ),
}
