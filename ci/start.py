"""How every script of this folder starts: in stereo's own environment, which stereo's launcher makes when it must."""

import os
import sys
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSIDE = "_STEREO_CI"
"""Set where the running interpreter is the right one already."""


def start(script: str, module: str = "ci.jobs.main", kind: str = "runtime") -> None:
    """Run `main()` of `module` in the environment of the requirements `kind`; comes back only in there."""
    if not os.environ.pop(INSIDE, None):
        _become_the_environment(script, kind)
    import_module(module).main()


def _become_the_environment(script: str, kind: str) -> None:
    sys.dont_write_bytecode = True  # nothing beside the launcher, which has no suffix
    spec = spec_from_loader("launcher", SourceFileLoader("launcher", str(ROOT / "stereo")))
    assert spec is not None
    assert spec.loader is not None
    launcher = module_from_spec(spec)
    spec.loader.exec_module(launcher)
    venv = launcher.choose_venv(kind)
    if not launcher.is_ready(venv, kind):
        try:
            launcher.make(venv, kind)
        except launcher.SetupError as error:
            sys.exit(f"stereo: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
    python = str(venv / "bin" / "python")
    os.execve(python, [python, "-I", script, *sys.argv[1:]], {**os.environ, INSIDE: "1"})
