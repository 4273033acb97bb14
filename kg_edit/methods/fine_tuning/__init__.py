"""Fine-tuning methods: of one weight with and without constraints, of all weights, and of low-rank adapters (LoRA)."""

METHODS = {
    "adalora": "adalora:AdaLora",
    "ft": "ft:Ft",
    "ft-all": "ft_all:FtAll",
    "ft-augmented": "ft_augmented:FtAugmented",
    "ft-constrained": "ft_constrained:FtConstrained",
    "ft-ewc": "ft_ewc:FtEwc",
    "ft-l": "ft:FtL",
    "ft-m": "ft:FtM",
    "ft-retrain": "ft_retrain:FtRetrain",
    "locft": "locft:LocFt",
    "lora": "lora:Lora",
}
