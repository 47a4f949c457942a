# Which stages run, in which order, with which cores and GPUs: `snakemake`, or `stillroom run`.
# dvc.yaml says what the stages are; DVC decides which of them are stale and runs each one.
import sys

from snakemake.utils import min_version

min_version("9.0")
sys.path.insert(0, f"{workflow.basedir}/workflow")

import plan


include: "workflow/rules/common.smk"


rule all:
    input:
        [plan.stamp(name) for name in STAGES],
        shown(),
    message:
        "every stage is up to date"


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/files.smk"
