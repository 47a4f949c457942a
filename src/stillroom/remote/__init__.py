"""Training by a service: files go up, a job is created and followed, a model's name comes back.

settings           the block `train.api`
examples           the mixture ──▶ the JSON Lines that a service takes, checked
service            one service's jobs, events and files; what it refuses, as errors of ours
openai_dialect     /files, /fine_tuning/jobs
together_dialect   /files/upload, /fine-tunes
job                one job from upload to result, found again after any kill
"""
