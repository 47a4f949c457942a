# `snakemake models/tuned`: an artifact by its path. These rules run nothing, so Snakemake deletes nothing.
# Included last: every stage must have its rule by now.

_ruled = {known.name for known in workflow.rules}
for _stage in STAGES.values():
    if not _stage.is_source and _stage.group not in _ruled:
        raise WorkflowError(
            f"dvc.yaml: stage {_stage.group} has no rule in workflow/rules"
        )


def files_upstream(name):
    """The stage's stamp and its trigger; `-f FILE` takes the stamp away, so that the stage's job runs."""

    def paths(wildcards):
        if workflow.is_main_process and is_forced(STAGES[name]):
            if not workflow.dag_settings.forcerun.isdisjoint(STAGES[name].outs):
                raise WorkflowError(
                    f"-R takes stages, not their files: -R {STAGES[name].group}"
                )
            Path(plan.stamp(name)).unlink(missing_ok=True)
        return [plan.stamp(name), plan.trigger(name)]

    return paths


for _stage in STAGES.values():
    if not _stage.is_source:

        rule:
            name:
                files_rule(_stage.name)
            input:
                files_upstream(_stage.name),
            output:
                [
                    marked(directory(out) if out in _stage.directories else out)
                    for out in _stage.outs
                ],


for _group in sorted(
    {_stage.group for _stage in STAGES.values() if "@" in _stage.name}
):

    # `snakemake all_evaluate`: every item of a matrix, as a rule with a wildcard cannot be a target.
    rule:
        name:
            f"all_{_group}"
        input:
            [
                plan.stamp(name)
                for name, stage in STAGES.items()
                if stage.group == _group
            ],
