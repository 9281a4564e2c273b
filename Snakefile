# The study: `snakemake --cores 48` runs it, `snakemake report` writes results/report.html, `snakemake -n` tells what
# would run. The target of each stage is in the rules file of its name.
#
# What belongs to the workflow is found from this file, wherever it lies, and is only read. What the study makes
# (results/, logs/, data/, .envs/) lies in the working folder.
from snakemake.utils import min_version

min_version("9.27")


include: "rules/requirements.smk"


configfile: f"{workflow.current_basedir}/config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/slurm.smk"
include: "rules/programs.smk"
include: "rules/environments.smk"
include: "rules/dataset.smk"
include: "rules/train.smk"
include: "rules/export.smk"
include: "rules/quantize.smk"
include: "rules/benchmark.smk"
include: "rules/report.smk"


onstart:
    lock_study()
    end_orphans()


rule all:
    default_target: True
    input:
        RESULTS,
    localrule: True
