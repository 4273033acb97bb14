"""Editors that fine-tune: all weights, with other losses, and low-rank adapters (LoRA)."""

METHODS = {
    "adalora": "adalora:AdaLora",
    "ft-all": "ft_all:FtAll",
    "ft-augmented": "ft_augmented:FtAugmented",
    "ft-ewc": "ft_ewc:FtEwc",
    "ft-retrain": "ft_retrain:FtRetrain",
    "locft": "locft:LocFt",
    "lora": "lora:Lora",
}
