# What the rules share. DVC decides (workflow/plan.py), Snakemake schedules: a rule's edges come from dvc.yaml.
import shlex

if workflow.config_settings.overwrite_config or workflow.config_settings.configfiles:
    raise WorkflowError(
        "--config and --configfile change what Snakemake sees and not what DVC records. "
        "Edit params.yaml, or vary it with `dvc exp run -S train.lr=0.002`."
    )

try:
    # Only the main process plans; a job on another machine reads the plan.
    PLAN = (
        plan.begin(workflow.output_settings.dryrun)
        if workflow.is_main_process
        else plan.load()
    )
except plan.PlanError as error:
    raise WorkflowError(str(error))

STAGES = PLAN.stages

if workflow.is_main_process:
    if plan.advice(PLAN):
        print(plan.advice(PLAN), file=sys.stderr)
    if "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", len(plan.visible_gpus()))


def address(group, wildcards):
    """DVC's address of a rule's stage: the rule's name, or of a matrix NAME@ITEM."""
    return "@".join([group, *wildcards])


def upstream(group):
    """Stamps of the stages above, and data that no stage makes: `ancient`, as DVC compares its content."""

    def paths(wildcards):
        stage = STAGES[address(group, wildcards)]
        made = [out for other in STAGES.values() for out in other.outs]
        data = [
            d
            for d in stage.deps
            if not d.startswith("src/") and not any(plan.overlap(d, o) for o in made)
        ]
        return [plan.stamp(name) for name in stage.upstream] + [
            ancient(path) for path in data
        ]

    return paths


def done(group):
    """The stamp of the rule's stage."""
    return touch(plan.stamp(group))


def stage(group):
    """The stage's address; -F, -R and -f become `dvc repro --force`."""

    def name(wildcards):
        name = address(group, wildcards)
        if (
            workflow.is_main_process
            and not workflow.output_settings.dryrun
            and is_forced(STAGES[name])
        ):
            open(plan.force_marker(name), "w").close()
        return name

    return name


def is_forced(stage):
    """Whether the command line asks to run the stage again, by its rule, its stamp or one of its files."""
    settings = workflow.dag_settings
    names = {stage.group, plan.stamp(stage.name), files_rule(stage.name), *stage.outs}
    targets = settings.targets if settings.forcetargets else ()
    return settings.forceall or not names.isdisjoint({*settings.forcerun, *targets})


def why(group):
    """The reason to run, for the terminal and the report."""
    return lambda wildcards: STAGES[address(group, wildcards)].why or "asked for"


SHOWN = {
    "reports/index.html": {"caption": "../report/page.rst", "category": "Results"},
    "reports/results.csv": {"caption": "../report/results.rst", "category": "Results"},
    "reports/curves": {
        "caption": "../report/curve.rst",
        "category": "Figures",
        "labels": {"figure": "{figure}"},
        "patterns": ["{figure}.svg"],
    },
    "reports/figures/train.csv": {
        "caption": "../report/training.rst",
        "category": "Training",
    },
}


def marked(out):
    """The out of a stage, marked for `snakemake --report` where it is a figure or a table."""
    return report(out, **SHOWN[str(out)]) if out in SHOWN else out


def shown():
    """What `snakemake --report` holds: files beside the stamps, which alone stand in the graph of a run."""
    if not any(word.split("=")[0] == "--report" for word in sys.argv):
        return []
    return [out for stage in STAGES.values() for out in stage.outs if out in SHOWN]


def files_rule(name):
    """Name of the rule that makes a stage's files targets."""
    return f"files_{name}"


onsuccess:
    if workflow.is_main_process:
        plan.finish()


# A stage's output goes to the terminal as it comes, and to its log.
RUN = f"{shlex.quote(sys.executable)} workflow/plan.py run {{params.stage:q}} 2>&1 | tee -i {{log:q}} >&2"
RUN_ON_GPUS = RUN
if workflow.is_main_process:  # elsewhere the cluster assigns them
    RUN_ON_GPUS = RUN.replace(" 2>&1", " --gpus {resources.gpu} 2>&1")
