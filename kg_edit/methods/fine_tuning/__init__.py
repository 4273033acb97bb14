"""Fine-tuning of one weight, with and without a constraint."""

METHODS = {
    "ft": "ft:Ft",
    "ft-constrained": "ft_constrained:FtConstrained",
    "ft-l": "ft:FtL",
    "ft-m": "ft:FtM",
}
