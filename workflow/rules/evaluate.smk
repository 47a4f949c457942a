# One model on one benchmark, an item of dvc.yaml's matrix each; one GPU each where there are GPUs.


rule evaluate:
    input:
        upstream("evaluate"),
    output:
        done("evaluate@{item}"),
    log:
        "logs/evaluate@{item}.log",
    benchmark:
        "logs/bench/evaluate@{item}.tsv"
    resources:
        gpu=min(1, len(plan.visible_gpus())),
    params:
        stage=stage("evaluate"),
        why=why("evaluate"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN_ON_GPUS
