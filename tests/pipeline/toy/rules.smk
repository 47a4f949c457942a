# Toy stages through the machinery of workflow/rules/common.smk.


rule fetch:
    input:
        upstream("fetch"),
    output:
        done("fetch"),
    log:
        "logs/fetch.log",
    benchmark:
        "logs/bench/fetch.tsv"
    params:
        stage=stage("fetch"),
        why=why("fetch"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


rule base:
    input:
        upstream("base"),
    output:
        done("base"),
    log:
        "logs/base.log",
    benchmark:
        "logs/bench/base.tsv"
    params:
        stage=stage("base"),
        why=why("base"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


rule clean:
    input:
        upstream("clean"),
    output:
        done("clean"),
    log:
        "logs/clean.log",
    benchmark:
        "logs/bench/clean.tsv"
    params:
        stage=stage("clean"),
        why=why("clean"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


rule train:
    input:
        upstream("train"),
    output:
        done("train"),
    log:
        "logs/train.log",
    benchmark:
        "logs/bench/train.tsv"
    resources:
        gpu=len(plan.visible_gpus()),
    params:
        stage=stage("train"),
        why=why("train"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN_ON_GPUS


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


rule report:
    input:
        upstream("report"),
    output:
        done("report"),
    log:
        "logs/report.log",
    benchmark:
        "logs/bench/report.tsv"
    params:
        stage=stage("report"),
        why=why("report"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


rule source:
    output:
        touch(plan.stamp("{source}.dvc")),
    log:
        "logs/source/{source}.log",
    params:
        stage=lambda wildcards: wildcards.source.replace("%", "/") + ".dvc",
        why="asked for",
    shell:
        RUN
