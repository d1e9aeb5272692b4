"""Where decision points and episodes come from: synthesis over real tools, JSONL in and out, probes, overlap."""
