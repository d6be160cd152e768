"""Questions asked of a streaming MLLM's memory, one file each: claim, estimate, nulls, verdict, figure."""
