"""What ``weight-forensics`` may say."""

from __future__ import annotations

from modelguard import Rule, Severity

NON_FINITE = Rule(
    "MG1301",
    "NonFiniteWeights",
    "weights that are NaN or infinite",
    Severity.MEDIUM,
    "One NaN or infinity in a weight spreads to every output that depends on it. Diverged training, overflow in a cast to float16, "
    "a damaged file or a flipped exponent bit leave them. High where half of a tensor's values or more are so: such weights compute "
    "nothing. Info for infinities that are meant: the graph uses them as limits, thresholds or masks only, or they are a single number "
    "or whole rows of a mask, bias or padding. There is one finding for each of these, however many tensors it is about.",
    "Fetch the file again and compare digests; if they agree, ask the publisher. Do not deploy a model that cannot compute.",
    "Attention masks stored as buffers hold −inf by design: a tensor of nothing but −inf and one other value is not reported.",
    cwe=1288,
)
FULL_MANTISSA = Rule(
    "MG1302",
    "MantissaPayload",
    "mantissas that do not belong to their exponents",
    Severity.HIGH,
    "In trained or freshly drawn weights small values are more frequent than large ones inside every power of two as well, so that "
    "the first mantissa bit is 1 in 41.5 % of the weights (log₂ 4/3), and in fewer where the distribution falls steeply. Here the "
    "exponents fall as usual but the mantissas do not follow: they were overwritten. EvilModel hides malware so.",
    "Do not deploy. Extract the named range's mantissa bits and have them examined; restore the tensor from a trusted source.",
    "Weights deliberately stored as random mantissas (some lossy compressors dither). Uniformly initialised layers are recognised by "
    "their exponents and are not reported.",
    cwe=506,
)
HIDDEN_FILE = Rule(
    "MG1303",
    "HiddenFile",
    "a file hidden in the weights' bits",
    Severity.CRITICAL,
    "The low bits or bytes of consecutive weights, read as a byte stream, begin an executable, archive or script whose header was "
    "checked beyond its magic number.",
    "Do not deploy; treat the artifact as malware. The evidence names tensor, first element, bits per weight and the kind of file.",
    "Chance: a checked header needs at least eight specific bytes, less than one in a billion per scanned gigabyte.",
    cwe=506,
)
STRUCTURED_BITS = Rule(
    "MG1304",
    "StructuredLowBits",
    "low mantissa bits that are not noise",
    Severity.MEDIUM,
    "The lowest mantissa bits of trained float weights are as good as coin tosses. In the named range they are biased or repeat with "
    "the period of a byte, as text or program code does when it is written into them.",
    "Compare with the publisher's file; extract the low bits of the range and look at them.",
    "Weights computed from coarser numbers (dequantised, averaged from bfloat16) have structured low bits; ranges with few distinct "
    "values or mostly zero low bytes are taken for those and not reported. Nor are rows that are still float16 among trained ones, and "
    "rows that are float16 numbers times a factor each, as after folding a BatchNorm. Encrypted payloads look like noise and are not seen.",
    cwe=506,
)
UPCAST = Rule(
    "MG1305",
    "LowBitsInUpcast",
    "full-precision weights among weights that were upcast from 16 bits",
    Severity.LOW,
    "Nearly every float32 matrix of this checkpoint has zero low bits: it was saved from bfloat16 or float16. The named one uses all "
    "of its bits, so it was written by something else, at another time. Severity is medium where only part of a matrix does.",
    "Ask which step wrote this tensor: a merge, a new head, an edit in float32, or a payload in bits nobody needed.",
    "Layers kept in float32 on purpose (routers, norms, heads), adapters merged in float32, vocabulary rows added later.",
)
OUTLIER = Rule(
    "MG1306",
    "ExponentOutlier",
    "weights a thousand times larger than all their neighbours",
    Severity.MEDIUM,
    "A handful of values stand more than ten powers of two above the 99.9th percentile of their tensor. One flipped exponent bit, by "
    "an attack (TBT, rowhammer) or a fault, does that.",
    "Compare with a reference; the evidence gives indices, values, and the value each would have without its highest exponent bit.",
    "Hand-set constants in otherwise trained tensors.",
    cwe=1319,
)
DEAD = Rule(
    "MG1307",
    "DeadTensor",
    "a weight matrix that holds one value",
    Severity.INFO,
    "Every entry is the same: the layer passes nothing on.",
    "Nothing, if the architecture starts layers at zero (ControlNet, LoRA B); otherwise ask how it was trained.",
    "Zero-initialised layers that were never trained; padding.",
)
DUPLICATE = Rule(
    "MG1308",
    "DuplicateTensor",
    "two matrices with the same bytes under different names",
    Severity.INFO,
    "Independent training never produces equal matrices: one was copied from the other. Tied embeddings are not reported.",
    "Nothing, if layers are shared or stacked on purpose (ALBERT, depth-upscaled merges).",
    "Weight sharing; layer-stacking merges.",
)
UNTIED = Rule(
    "MG1309",
    "AlmostTied",
    "an output head that equals the embedding in all but a few rows",
    Severity.MEDIUM,
    "The head and the embedding were the same matrix; then rows of one were changed and not of the other. Word-embedding poisoning "
    "of a tied model looks like this, and loaders differ in which copy they use.",
    "Compare both with a reference. The evidence lists the rows: look up the tokens.",
    "Rows of new tokens initialised on one side only.",
    cwe=506,
)
RULES = (NON_FINITE, FULL_MANTISSA, HIDDEN_FILE, STRUCTURED_BITS, UPCAST, OUTLIER, DEAD, DUPLICATE, UNTIED)
