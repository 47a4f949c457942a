# Sources, models and data: fetch, models, extract, distill, booksum, mqa, raft, mix, pack.


rule source:  # data/mine.dvc and the like: DVC records what was edited by hand
    output:
        touch(plan.stamp("{source}.dvc")),
    log:
        "logs/source/{source}.log",
    params:
        stage=lambda wildcards: wildcards.source.replace("%", "/") + ".dvc",
        why=lambda wildcards: STAGES[wildcards.source.replace("%", "/") + ".dvc"].why
        or "asked for",
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


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


rule models:
    input:
        upstream("models"),
    output:
        done("models"),
    log:
        "logs/models.log",
    benchmark:
        "logs/bench/models.tsv"
    threads: 2
    params:
        stage=stage("models"),
        why=why("models"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


rule extract:
    input:
        upstream("extract"),
    output:
        done("extract"),
    log:
        "logs/extract.log",
    benchmark:
        "logs/bench/extract.tsv"
    threads: 4
    params:
        stage=stage("extract"),
        why=why("extract"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


rule distill:
    input:
        upstream("distill"),
    output:
        done("distill"),
    log:
        "logs/distill.log",
    benchmark:
        "logs/bench/distill.tsv"
    resources:
        api=1,
    params:
        stage=stage("distill"),
        why=why("distill"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


rule booksum:
    input:
        upstream("booksum"),
    output:
        done("booksum"),
    log:
        "logs/booksum.log",
    benchmark:
        "logs/bench/booksum.tsv"
    params:
        stage=stage("booksum"),
        why=why("booksum"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


rule mqa:
    input:
        upstream("mqa"),
    output:
        done("mqa"),
    log:
        "logs/mqa.log",
    benchmark:
        "logs/bench/mqa.tsv"
    params:
        stage=stage("mqa"),
        why=why("mqa"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


rule raft:
    input:
        upstream("raft"),
    output:
        done("raft"),
    log:
        "logs/raft.log",
    benchmark:
        "logs/bench/raft.tsv"
    resources:
        api=1,
    params:
        stage=stage("raft"),
        why=why("raft"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


rule mix:
    input:
        upstream("mix"),
    output:
        done("mix"),
    log:
        "logs/mix.log",
    benchmark:
        "logs/bench/mix.tsv"
    threads: 4
    params:
        stage=stage("mix"),
        why=why("mix"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN


rule pack:
    input:
        upstream("pack"),
    output:
        done("pack"),
    log:
        "logs/pack.log",
    benchmark:
        "logs/bench/pack.tsv"
    params:
        stage=stage("pack"),
        why=why("pack"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN
