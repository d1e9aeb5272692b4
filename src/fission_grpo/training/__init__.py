"""Our own loop: explore, observe, recover, update, on one machine or data parallel."""
