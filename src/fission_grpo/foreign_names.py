"""What TRL, verl and their like call a setting, and what it is here: for those who come from there."""

from __future__ import annotations

from collections.abc import Mapping

NAME_HERE: Mapping[str, str] = {
    # TRL
    "num_generations": "trainer.group_size",
    "max_completion_length": "rollouts.max_tokens",
    "max_tool_calling_iterations": "rollouts.max_turns",
    "max_steps": "trainer.steps",
    "generation_batch_size": "trainer.queries",
    "per_device_train_batch_size": "trainer.queries",
    "loss_type": "trainer.objective",
    "scale_rewards": "trainer.objective",
    "save_steps": "trainer.checkpoint_every",
    "output_dir": "output",
    "model_name_or_path": "model",
    "dtype": "precision",
    "torch_dtype": "precision",
    "dataset_name": "data",
    "use_peft": "lora.rank",
    "lora_r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_target_modules": "lora.targets",
    "chat_template_path": "chat_template",
    "environment_factory": "environments",
    "reward_funcs": "reward.functions",
    "reward_weights": "reward.weights",
    "reward_fn": "reward.functions",
    "custom_reward_function": "reward.functions",
    "use_vllm": "engine.vllm",
    "vllm_mode": "engine.vllm",
    "vllm_gpu_memory_utilization": "engine.vllm_share",
    "vllm_max_model_length": "engine.vllm_window",
    "vllm_server_base_url": "engine.vllm_url",
    "vllm_server_host": "engine.vllm_url",
    "fsdp": "engine.sharding",
    "fsdp_version": "engine.sharding",
    "deepspeed": "engine.sharding",
    "zero_stage": "engine.sharding",
    "num_machines": "engine.nodes",
    # verl
    "n": "trainer.group_size",
    "train_batch_size": "trainer.queries",
    "ppo_mini_batch_size": "trainer.queries",
    "max_response_length": "rollouts.max_tokens",
    "max_prompt_length": "rollouts.max_prompt",
    "max_assistant_turns": "rollouts.max_turns",
    "ppo_max_token_len_per_gpu": "trainer.token_budget",
    "kl_coef": "trainer.beta",
    "kl_loss_coef": "trainer.beta",
    "lr": "trainer.learning_rate",
    "grad_clip": "trainer.max_grad_norm",
    "enable_gradient_checkpointing": "trainer.gradient_checkpointing",
    "total_training_steps": "trainer.steps",
    "save_freq": "trainer.checkpoint_every",
    "default_local_dir": "output",
    "train_files": "data",
    "val_files": "heldout",
    "eval_dataset": "heldout",
    "gpu_memory_utilization": "engine.vllm_share",
    "max_model_len": "engine.vllm_window",
    "ppo_micro_batch_size_per_gpu": "engine.micro_batch",
    "ppo_micro_batch_size": "engine.micro_batch",
    "n_gpus_per_node": "engine.gpus",
    "nnodes": "engine.nodes",
    "path": "model",
    "lora_rank": "lora.rank",
    # both, and their like
    "report_to": "trackers",
    "logger": "trackers",
    "num_steps": "trainer.steps",
    "batch_size": "trainer.queries",
    "max_new_tokens": "rollouts.max_tokens",
    "dataset": "data",
}
"""Last word of a setting elsewhere -> the setting here that means the same, or is nearest to it."""

NOT_HERE: Mapping[str, str] = {
    **dict.fromkeys(
        ("logging_steps", "run_name", "project_name", "experiment_name"),
        "every step goes to metrics.jsonl and traces.jsonl in the run folder, and to those that trackers names, where "
        "a run is called like its folder",
    ),
    **dict.fromkeys(
        ("num_train_epochs", "total_epochs", "epochs"),
        "a run is as long as trainer.steps says: trainer.steps x trainer.queries tasks are explored in turn; "
        "a supervised one can be given sft.passes",
    ),
    **dict.fromkeys(
        ("gradient_accumulation_steps", "num_iterations"),
        "a step is one update on all its groups; trainer.queries x trainer.group_size is the batch, and "
        "trainer.token_budget bounds the memory of a micro-batch",
    ),
    **dict.fromkeys(
        ("bf16", "fp16", "mixed_precision"),
        "sampler and trainer must agree; choose precision=fp32 or precision=bf16; inside TRL, engine.autocast computes "
        "in bfloat16 what is kept in fp32",
    ),
    **dict.fromkeys(
        ("num_processes",),
        "one process for each GPU: start it with `accelerate launch --num_processes N`; inside TRL, engine.gpus says "
        "so as well",
    ),
    **dict.fromkeys(
        ("tensor_model_parallel_size", "vllm_tensor_parallel_size"),
        "each process samples on a device of its own: dialogues end when they end, and devices in step would wait",
    ),
    **dict.fromkeys(
        ("reward_model",),
        "the world judges by its score(), or gold calls do, and functions of yours: reward.functions",
    ),
    **dict.fromkeys(
        ("epsilon", "epsilon_high", "clip_ratio", "clip_ratio_low", "clip_ratio_high"),
        "the clip comes with trainer.objective",
    ),
    **dict.fromkeys(
        ("lr_scheduler_type", "warmup_steps", "warmup_ratio", "lr_warmup_steps"),
        "trainer.learning_rate is constant",
    ),
}
"""Last word of a setting elsewhere that has no counterpart -> what to know in its place."""
