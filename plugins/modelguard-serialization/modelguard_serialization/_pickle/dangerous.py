"""Names that are known to do harm. They only raise an unknown name to critical: what is on no list at all is blocked too."""

from __future__ import annotations

_CODE = "runs code"
_COMMANDS = "runs commands"
_IMPORTS = "looks up any name in any module"
_FILES = "reads or writes files"
_NETWORK = "opens connections"
_PICKLES = "loads another pickle"
_CALLS = "calls any function"
_MEMORY = "reaches into the memory of the process"

_TORCH = " ".join(f"torch.{name}" for name in ("fx", "package", "jit", "onnx", "_C", "ops", "_ops", "library", "testing", "_lobpcg"))
"""Of torch: what compiles, registers or looks up code."""

_MODULES = {
    _COMMANDS: """
        os posix nt posixpath ntpath genericpath _posixsubprocess subprocess _winapi pty commands popen2 webbrowser antigravity
        asyncio multiprocessing concurrent _osx_support _aix_support distutils setuptools pip ensurepip venv virtualenv conda
        platform sysconfig idlelib lib2to3 pexpect sh plumbum fabric invoke paramiko torch.utils.collect_env
        torch.utils.cpp_extension torch.utils.hipify torch._inductor torch._dynamo torch.distributed.run
        torch.distributed.launcher torch.distributed.elastic torch.utils.bottleneck torch.utils._config_module
        torch.utils.benchmark torch._appdirs
        torch._deploy numpy.testing numpy.f2py numpy.distutils scipy.weave mlflow bentoml ray dask celery git gitdb
        transformers.commands huggingface_hub.commands accelerate.commands uuid._popen uuid._get_command_stdout test _pyrepl turtledemo
    """,
    _CODE: """
        sys runpy code codeop pdb bdb cmd timeit trace profile cProfile _lsprof doctest unittest pydoc site sitecustomize
        usercustomize sched atexit signal threading _thread dis ast compileall py_compile symtable token tokenize inspect
        rlcompleter readline IPython pytest _pytest nose sympy numexpr cffi numba cython Cython pyximport asteval jinja2 mako
        tornado scipy.stats pandas.core.computation tensorflow keras tf_keras jax muss_eval exec_utils this __main__.exec
        ensurepip._bundled guppy
    """
    + _TORCH,
    _IMPORTS: """
        importlib imp _imp _frozen_importlib _frozen_importlib_external pkgutil pkg_resources zipimport modulefinder six.moves
        hydra stevedore pluggy torch.hub torch._utils_internal django.utils.module_loading zope
    """,
    _FILES: """
        shutil tempfile fileinput glob fnmatch linecache mmap zipfile tarfile gzip bz2 lzma filecmp netrc dbm sqlite3 _sqlite3
        logging.config logging.handlers getpass pwd grp spwd crypt configparser codecs.open numpy.lib torch.utils.model_zoo
        safetensors h5py fsspec s3fs gcsfs distutils.file_util keyring pandas.io scipy.io torch.utils.file_baton joblib.memory
        winreg _winreg
    """,
    _NETWORK: """
        socket _socket ssl _ssl http urllib urllib2 urllib3 httplib ftplib smtplib poplib imaplib nntplib telnetlib xmlrpc
        socketserver selectors select requests aiohttp httpx websocket websockets boto3 botocore google.cloud azure wsgiref cgi
        cgitb smtpd asyncore asynchat mailcap email pycurl zmq huggingface_hub torch.distributed.rpc wandb gradio
    """,
    _PICKLES: """
        pickle _pickle cPickle pickletools dill cloudpickle marshal shelve joblib torch.serialization jsonpickle yaml ruamel
        pickle5 torch.multiprocessing torch.utils.data skops hickle klepto srsly fickling
    """,
    _CALLS: """
        functools operator _operator itertools weakref contextlib types copyreg _functools nturl2path
    """,
    _MEMORY: """
        ctypes _ctypes gc faulthandler tracemalloc _testcapi _xxsubinterpreters _interpreters numpy.ctypeslib
    """,
}
"""Modules whose every name does it, and those of the modules in them."""
_NAMES = {
    _CODE: """
        builtins.eval builtins.exec builtins.execfile builtins.compile builtins.apply builtins.breakpoint builtins.help
        builtins.input builtins.raw_input builtins.exit builtins.quit builtins.reload builtins.print builtins.memoryview
        builtins.classmethod builtins.staticmethod builtins.property builtins.super collections.namedtuple pandas.eval
        numpy.vectorize numpy.frompyfunc numpy.fromfunction numpy.piecewise numpy.apply_along_axis numpy.apply_over_axes
        torch.compile enum.Enum._generate_next_value_ dataclasses.make_dataclass typing.get_type_hints typing.ForwardRef
        typing.NamedTuple torch._utils._import_dotted_name
    """,
    _IMPORTS: """
        builtins.__import__ builtins.getattr builtins.setattr builtins.delattr builtins.globals builtins.locals builtins.vars
        builtins.dir builtins.hasattr builtins.__build_class__ builtins.__loader__ builtins.__dict__
        numpy.core._internal._ctypes torch._import_dotted_name copyreg.add_extension copyreg.pickle
    """,
    _FILES: """
        builtins.open builtins.file io.open io.open_code io.FileIO _io.open _io.open_code _io.FileIO _io.TextIOWrapper
        io.TextIOWrapper _io.BufferedReader _io.BufferedWriter codecs.open numpy.fromfile numpy.loadtxt numpy.genfromtxt
        numpy.save numpy.savetxt numpy.savez numpy.memmap numpy.open_memmap numpy.DataSource numpy.fromregex torch.save
        torch.from_file torch.load_library logging.FileHandler logging.basicConfig pathlib.Path.write_text
        pathlib.Path.write_bytes pathlib.Path.read_text pathlib.Path.read_bytes pathlib.Path.unlink pathlib.Path.open
    """,
    _PICKLES: """
        numpy.load torch.load pandas.read_pickle torch.jit.load numpy.core.multiarray.loads torch.storage._new_shared
    """,
    _CALLS: """
        builtins.map builtins.filter builtins.sorted builtins.iter builtins.reduce builtins.next builtins.zip
    """,
}
_PARTS = {
    _IMPORTS: """
        __globals__ __builtins__ __subclasses__ __import__ __dict__ __class__ __mro__ __base__ __bases__ __loader__ __spec__
        __self__ __func__ __getattribute__ modules resolve_name import_module load_module
    """,
    _CODE: """
        __code__ eval exec execfile run_code runcode runsource
    """,
    _COMMANDS: """
        exec_command system popen Popen check_output check_call getoutput spawn
    """,
    _PICKLES: """
        read_pickle unpickle
    """,
    _NETWORK: """
        urlopen urlretrieve
    """,
}
"""Parts of a dotted name that are harmful in whatever module they lie."""


def _turned(table: dict[str, str]) -> dict[str, str]:
    return {name: reason for reason, names in table.items() for name in names.split()}


_BY_MODULE, _BY_NAME, _BY_PART = _turned(_MODULES), _turned(_NAMES), _turned(_PARTS)


def danger(module: str, name: str) -> str:
    """What ``module.name`` is known to do, or an empty text. Modules are compared part by part: ``osmium`` is not ``os``."""
    path = ("builtins" if module == "__builtin__" else module).split(".") + name.split(".")
    for end in range(len(path), 0, -1):
        prefix = ".".join(path[:end])
        if reason := _BY_NAME.get(prefix) or _BY_MODULE.get(prefix):
            return reason
    parts = name.split(".")
    for part in parts:
        if reason := _BY_PART.get(part):
            return reason
    # A module that another module imported: numpy.os, torch.sys.
    return next((_BY_MODULE[part] for part in parts if part in _BY_MODULE), "")
