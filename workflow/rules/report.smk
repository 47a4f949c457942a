# Metrics and samples into one page: report.


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
