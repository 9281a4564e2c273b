# What the study cannot do without is looked for when the Snakefile is read, so that nothing fails hours later.
import importlib.util
import platform
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

if not workflow.current_basedir.is_local:
    raise WorkflowError(
        "sparsemark starts its programs by their paths: clone the repository, and name the clone's Snakefile"
    )
if (system := platform.system()) != "Linux":
    raise WorkflowError(f"sparsemark measures with what Linux offers, and this is {system}")
sys.path.insert(0, str(Path(str(workflow.current_basedir)).parent / "workflow" / "scripts"))

from deploy_env import find_python

CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
# The Python of every environment file, and what a Snakemake of one's own needs beside itself: in the first line to read
# this workflow; in the second for tables, figures and the report, which conda would bring along.
ENVIRONMENT_PYTHON = "3.11"
LIBRARIES = ["numpy", "jsonschema", "yaml"]
PIP_LIBRARIES = ["pandas", "scipy", "seaborn", "matplotlib", "psutil", "jinja2", "pygments"]
needed = LIBRARIES + ([] if CONDA else PIP_LIBRARIES)
if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
    raise WorkflowError(
        f"the Python that runs Snakemake ({sys.executable}) lacks {', '.join(missing)}: install what "
        "envs/workflow.yaml lists, or let `make report` do it"
    )
if not CONDA:
    try:
        find_python(ENVIRONMENT_PYTHON)
    except RuntimeError as error:
        raise WorkflowError(f"{error} (or use `--sdm conda`)") from None
