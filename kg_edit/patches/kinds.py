"""The kinds of patches of the core, by the ``kind`` in their files."""

from kg_edit.registry import PatchEntry

PATCH_KINDS = (
    PatchEntry("weights", target="kg_edit.patches.weight_patch:WeightPatch"),
    PatchEntry("prompt", target="kg_edit.patches.prompt_patch:PromptPatch"),
    PatchEntry("adapters", target="kg_edit.patches.adapter_patch:AdapterPatch"),
    PatchEntry("graph-memory", target="kg_edit.methods.graph_memory.patch:GraphMemoryPatch"),
)
