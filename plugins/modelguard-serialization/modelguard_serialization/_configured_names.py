"""Dotted names in configurations: what a library gets when it imports them."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from modelguard import Artifact, Severity

LIBRARIES = frozenset(
    """
    accelerate allennlp apex audiocraft autogluon auraloss bertopic bitsandbytes botorch cached_path catboost chronos cldm clip colbert composer
    cosyvoice darts dataclasses_json datasets decord deepspeed descript detectron2 diffusers einops encodec espnet espnet2 evaluate fairseq
    fairseq2 faiss fastai faster_whisper flair flash_attn flax FlagEmbedding gluonts gpytorch haiku hydra hyperpyyaml imwatermark jax jaxtyping
    julius k_diffusion keras keras_cv keras_hub keras_nlp kornia langchain langchain_core langchain_community ldm librosa lightgbm lightning
    lightning_fabric litgpt llamafactory llmfoundry matcha megatron mindspore mlflow mmcls mmcv mmdet mmengine mmocr mmpose mmpretrain mmseg
    monai mxnet nemo nemo_text_processing nltk numpy omegaconf onnx onnxruntime open_clip optax optimum orbax paddle paddlenlp paddleocr pandas
    peft PIL pyannote pyctcdecode pylate pyro pytorch_forecasting pytorch_lightning pytorch_tabnet ray safetensors sam2 scipy segment_anything
    sentence_transformers sentencepiece setfit sgm skimage sklearn spacy spacy_transformers speechbrain stable_baselines3 stanza streaming
    taming tensorboard tensorflow tensorflow_addons tf_keras thinc timm tokenizers torch torch_geometric torchao torchaudio torchdata
    torchlibrosa torchmetrics torchtext torchtune torchvision tqdm transformers trl ultralytics unsloth vector_quantize_pytorch vllm vocos wandb
    whisper x_transformers xformers xgboost
    """.split()
)
"""Packages whose classes configurations name, by their frameworks' own examples: Hydra, SpeechBrain, NeMo, CompVis, MONAI, Lightning, MMEngine."""

_PLAIN = frozenset(
    """
    argparse.Namespace builtins.bool builtins.bytes builtins.complex builtins.dict builtins.float builtins.frozenset builtins.int builtins.len
    builtins.list builtins.max builtins.min builtins.range builtins.round builtins.set builtins.slice builtins.str builtins.sum builtins.tuple
    builtins.zip builtins.enumerate builtins.print builtins.abs builtins.sorted collections.ChainMap collections.Counter collections.OrderedDict
    collections.defaultdict collections.deque datetime.date datetime.datetime datetime.timedelta decimal.Decimal fractions.Fraction
    functools.partial math.ceil math.exp math.floor math.inf math.log math.pow math.sqrt operator.itemgetter os.path.join pathlib.Path
    pathlib.PosixPath pathlib.PurePath pathlib.PurePosixPath pathlib.WindowsPath pathlib.PureWindowsPath random.Random random.choice random.randint random.seed
    random.shuffle random.uniform types.SimpleNamespace uuid.UUID
    """.split()
)
"""What of the standard library builds values or numbers, and nothing more."""

_RUNS = re.compile(
    r"(?:^|[._])(?:exec|eval|system|popen|spawn\w*|subprocess|run_shell|run_command|run_cmd|shell|load_library|load_op_library|cpp_extension|f2py|"
    r"runstring|import_module|import_string|collect_env|os|sys|builtins|ctypes|pickle|unpickle|joblib|dill|cloudpickle|marshal|code|pty|distutils|py_function)(?:$|[._])"
    r"|__\w+__"
)
_LOADS = re.compile(r"(?:^|\.)(?:hub\.\w+|loads?|load_pkl|load_pickle|download\w*|urlretrieve|get_file|fetch\w*|get_method|get_class|get_object|open|rmtree|remove)$")


@dataclass(frozen=True, slots=True)
class Named:
    """What a dotted name stands for: how bad naming it is (None: ordinary), and why, completing "which ..."."""

    severity: Severity | None
    why: str = ""


def judge(name: str, artifact: Artifact) -> Named:
    """What importing ``name`` (``package.module.attribute``, with or without a colon) would get."""
    name = name.strip().replace(":", ".")
    package = name.partition(".")[0]
    if name in _PLAIN:
        return Named(None, "is a plain value")
    if brought_along(package, artifact):
        return Named(Severity.HIGH, "is code that the artifact brings along")
    if package in sys.stdlib_module_names or package in ("posix", "nt"):
        return Named(Severity.CRITICAL, "is Python's own and can run commands or code")
    if package in LIBRARIES:
        if _RUNS.search(name):
            return Named(Severity.CRITICAL, "runs commands or code, or unpickles files")
        return Named(Severity.HIGH, "loads or fetches what its arguments say") if _LOADS.search(name) else Named(None, f"is of {package}")
    return Named(Severity.HIGH, "is in no library known to be named in configurations")


def brought_along(package: str, artifact: Artifact) -> bool:
    """Whether a file of the artifact would be imported as ``package`` by whoever runs with its folder on the path."""
    return any(re.fullmatch(rf"(?:.*/)?{re.escape(package)}(?:/__init__)?\.(?:py|pyc|so|pyd)", file.path) for file in artifact.files) if package else False
