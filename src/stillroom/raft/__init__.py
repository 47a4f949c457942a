"""RAFT (arXiv:2403.10131): questions about passages, and answers that quote them among distractors.

passages ──▶ interview (prompts, questions, answers, quotations) ──▶ pairs ──▶ review ──▶ contexts ──▶ formats

The stage is `stillroom.stages.raft`.
"""
