"""Python names that do more than compute, by what they do. Names are full dotted ones; a trailing dot stands for all below."""

from __future__ import annotations

from modelguard_serialization._words import words

COMMAND, EXECUTE, SOCKET, NETWORK, UNPICKLE, NATIVE, IMPORT, DELETE, DECODE = (
    "runs commands",
    "runs text as code",
    "opens sockets",
    "uses the network",
    "unpickles",
    "loads native code",
    "imports what it computes",
    "deletes files",
    "decodes",
)

_KINDS: dict[str, frozenset[str]] = {
    COMMAND: words(
        "os.system os.popen os.execl os.execle os.execlp os.execlpe os.execv os.execve os.execvp os.execvpe os.spawnl os.spawnle "
        "os.spawnlp "
        "os.spawnlpe os.spawnv os.spawnve os.spawnvp os.spawnvpe os.posix_spawn os.posix_spawnp os.startfile os.fork os.forkpty "
        "posix.system "
        "nt.system posix.popen subprocess.run subprocess.call subprocess.check_call subprocess.check_output subprocess.Popen "
        "subprocess.getoutput subprocess.getstatusoutput pty.spawn commands.getoutput commands.getstatusoutput popen2.popen2 "
        "asyncio.create_subprocess_exec asyncio.create_subprocess_shell asyncio.subprocess.create_subprocess_exec pexpect.spawn "
        "pexpect.run "
        "sh. plumbum. fabric. invoke.run paramiko. pip.main pip._internal.main pip._internal.cli.main.main ensurepip.bootstrap "
        "distutils.spawn.spawn setuptools.sandbox.run_setup webbrowser.open antigravity. multiprocessing.util.spawnv_passfds "
        "_posixsubprocess.fork_exec torch.utils.collect_env.run IPython.get_ipython get_ipython"
    ),
    EXECUTE: words(
        "builtins.exec builtins.eval builtins.compile builtins.execfile builtins.breakpoint code.interact code.InteractiveInterpreter "
        "code.InteractiveConsole codeop.compile_command runpy.run_path runpy.run_module types.FunctionType types.CodeType pdb.run "
        "pdb.runeval "
        "timeit.timeit timeit.repeat cProfile.run profile.run trace.Trace bdb.Bdb.run importlib.machinery.SourceFileLoader imp.load_source "
        "importlib.util.spec_from_loader zipimport.zipimporter pandas.eval numexpr.evaluate"
    ),
    SOCKET: words(
        "socket.socket socket.create_connection socket.create_server asyncio.open_connection asyncio.start_server socketserver. "
        "websocket. websockets. telnetlib. xmlrpc. zmq. dns. scapy. ftplib. smtplib. poplib. imaplib. nntplib. http.server."
    ),
    NETWORK: words(
        "urllib.request.urlopen urllib.request.urlretrieve urllib.request.Request urllib.request.build_opener urllib.urlopen "
        "urllib2.urlopen "
        "urllib.urlretrieve http.client.HTTPConnection http.client.HTTPSConnection requests.get requests.post requests.put requests.patch "
        "requests.request requests.Session requests.delete requests.head httpx.get httpx.post httpx.put httpx.stream httpx.request "
        "httpx.Client "
        "httpx.AsyncClient aiohttp.ClientSession aiohttp.request urllib3.PoolManager urllib3.request wget.download pycurl. "
        "torch.hub.load_state_dict_from_url torch.hub.download_url_to_file torch.hub.load torch.utils.model_zoo.load_url boto3. "
        "gdown.download"
    ),
    UNPICKLE: words(
        "pickle.load pickle.loads pickle.Unpickler cPickle.load cPickle.loads _pickle.load _pickle.loads dill.load dill.loads "
        "cloudpickle.load "
        "cloudpickle.loads joblib.load shelve.open marshal.load marshal.loads torch.load jsonpickle.decode pandas.read_pickle "
        "yaml.unsafe_load "
        "yaml.full_load pickle5.load pickle5.loads"
    ),
    NATIVE: words(
        "ctypes.CDLL ctypes.PyDLL ctypes.WinDLL ctypes.OleDLL ctypes.cdll. ctypes.windll. ctypes.pythonapi. ctypes.CFUNCTYPE "
        "ctypes.util.find_library cffi.FFI torch.ops.load_library torch.classes.load_library torch.utils.cpp_extension.load "
        "torch.utils.cpp_extension.load_inline importlib.machinery.ExtensionFileLoader imp.load_dynamic mmap.mmap "
        "numpy.ctypeslib.load_library"
    ),
    IMPORT: words("builtins.__import__ importlib.import_module importlib.__import__ importlib.reload pkgutil.resolve_name pydoc.locate"),
    DELETE: words("shutil.rmtree os.remove os.unlink os.rmdir os.removedirs"),
    DECODE: words(
        "base64.b64decode base64.b32decode base64.b16decode base64.b85decode base64.a85decode base64.urlsafe_b64decode base64.decodebytes "
        "base64.standard_b64decode binascii.unhexlify binascii.a2b_base64 binascii.a2b_hex codecs.decode zlib.decompress bz2.decompress "
        "lzma.decompress gzip.decompress marshal.loads builtins.bytes.fromhex builtins.bytearray.fromhex cryptography.fernet.Fernet"
    ),
}
LIBRARY = "a native library"
"""What a loaded library goes by; an attribute of it is a function in it."""
LIBRARIES = words("ctypes.CDLL ctypes.PyDLL ctypes.WinDLL ctypes.OleDLL ctypes.cdll.LoadLibrary ctypes.windll.LoadLibrary")
_NATIVE_COMMANDS = words(
    "system _wsystem popen _popen execl execle execlp execv execve execvp execvpe fexecve posix_spawn posix_spawnp WinExec "
    "ShellExecuteA ShellExecuteW ShellExecuteExA ShellExecuteExW CreateProcessA CreateProcessW"
)
EXACT = {name: kind for kind, names in _KINDS.items() for name in names if not name.endswith(".")}
_ORDINARY = words("run call spawn fork main open bootstrap")
"""Last parts of names of functions that run commands, which methods of anything are called too."""
BY_METHOD: dict[str, tuple[str, ...]] = {}
"""Functions that run commands, by a last part that hardly anything else is called."""
for _name in sorted(_KINDS[COMMAND]):
    _module, _, _last = _name.rpartition(".")
    if _module in ("os", "posix", "nt", "subprocess", "pty") and _last not in _ORDINARY:
        BY_METHOD[_last] = (*BY_METHOD.get(_last, ()), _name)
_BELOW = {name[:-1]: kind for kind, names in _KINDS.items() for name in names if name.endswith(".")}
DECODERS = frozenset(name.rpartition(".")[2] for name, kind in EXACT.items() if kind in (DECODE, NETWORK)) | {"loads"}
"""The last parts of names that give text which was not there before."""
BUILTINS = words(
    "exec eval compile execfile __import__ open getattr setattr globals locals vars breakpoint bytes bytearray chr map __builtins__"
)
REACH = words("os posix nt subprocess builtins sys importlib ctypes pty socket shutil __builtin__")
"""Modules an attribute of which, taken by a computed name, may be anything."""
TOOLS = words(
    "ffmpeg ffprobe git nvidia-smi rocm-smi nvcc ninja which where uname lscpu sox espeak espeak-ng nproc hostname sysctl lspci ldconfig "
    "g++ gcc cmake soffice libreoffice pdftoppm tesseract open_jtalk mecab sysctl cat wmic xcrun"
)
"""Programs that honest code for models runs; commands of theirs weigh less."""


def kind_of(name: str) -> str | None:
    """What the thing of this full name does, or None when it is not in the lists."""
    if name in EXACT:
        return EXACT[name]
    top, _, _ = name.partition(".")
    if top in (LIBRARY, "ctypes") and name.rpartition(".")[2] in _NATIVE_COMMANDS:
        return COMMAND
    if top in _BELOW and name != top:
        return _BELOW[top]
    two = ".".join(name.split(".")[:2])
    return _BELOW.get(two) if name != two else None
