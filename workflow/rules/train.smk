# Training on every visible GPU, and its checkpoint as a model folder: train, convert.


rule train:
    input:
        upstream("train"),
    output:
        done("train"),
    log:
        "logs/train.log",
    benchmark:
        "logs/bench/train.tsv"
    threads: 2
    resources:
        gpu=len(plan.visible_gpus()),
    params:
        stage=stage("train"),
        why=why("train"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN_ON_GPUS


rule convert:
    input:
        upstream("convert"),
    output:
        done("convert"),
    log:
        "logs/convert.log",
    benchmark:
        "logs/bench/convert.tsv"
    params:
        stage=stage("convert"),
        why=why("convert"),
    message:
        "{params.stage}: {params.why}"
    shell:
        RUN
