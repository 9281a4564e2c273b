# What the study cannot do without is looked for when the Snakefile is read, so that nothing fails hours later.
import importlib.util
import platform
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
# The Python of every environment file, and what a Snakemake of one's own needs beside itself: in the first line to read
# this workflow; in the second for tables, figures and the report, which conda would bring along.
ENVIRONMENT_PYTHON = "3.11"
LIBRARIES = ["numpy", "jsonschema", "yaml"]
PIP_LIBRARIES = ["pandas", "scipy", "seaborn", "matplotlib", "psutil", "jinja2", "pygments"]


def check_requirements():
    if not workflow.current_basedir.is_local:
        raise WorkflowError(
            "sparsemark starts its programs by their paths: clone the repository and name the clone's Snakefile"
        )
    if (system := platform.system()) != "Linux":
        raise WorkflowError(f"sparsemark measures with what Linux offers, and this is {system}")
    needed = LIBRARIES + ([] if CONDA else PIP_LIBRARIES)
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise WorkflowError(
            f"the Python that runs Snakemake ({sys.executable}) lacks {', '.join(missing)}: install what "
            "envs/workflow.yaml lists, or let `make report` do it"
        )
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not CONDA and running != ENVIRONMENT_PYTHON and shutil.which(f"python{ENVIRONMENT_PYTHON}") is None:
        raise WorkflowError(
            f"the environments need Python {ENVIRONMENT_PYTHON}, this is Python {running}: put a "
            f"python{ENVIRONMENT_PYTHON} on the PATH, or use `--sdm conda`"
        )


check_requirements()
