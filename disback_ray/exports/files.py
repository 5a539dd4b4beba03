"""`--to safetensors` and `--to state-dict`: the weights by their owners' names, with what they are in model.json."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from disback_ray.exports.card import write_card
from disback_ray.exports.layouts import Layout, owners_layout
from disback_ray.exports.student import Student
from disback_ray.prompting import text_network_of

FACTS, SAFE, STATE = "model.json", "model.safetensors", "model.pt"


def write_safetensors(student: Student, folder: Path) -> None:
    """model.safetensors and model.json."""
    layout = owners_layout(student)
    safetensors.torch.save_file(layout.weights, folder / SAFE)
    _describe(student, layout, folder, load=f'safetensors.torch.load_file("{SAFE}")', needs="import safetensors.torch")


def write_state_dict(student: Student, folder: Path) -> None:
    """model.pt, a plain state dict that torch's weights-only loader takes, and model.json. There is no pickled class in it."""
    layout = owners_layout(student)
    torch.save(layout.weights, folder / STATE)
    _describe(student, layout, folder, load=f'torch.load("{STATE}", weights_only=True)', needs="import torch")


def _describe(student: Student, layout: Layout, folder: Path, *, load: str, needs: str) -> None:
    (folder / FACTS).write_text(
        json.dumps(facts(student) | {"network": layout.network, "one_step": layout.how}, indent=2) + "\n", "utf-8"
    )
    library, name = layout.network["library"], layout.network["class"]
    use = f"""The weights have the names of `{name}` of {library}, with the arguments in `{FACTS}`:

```python
import json
from pathlib import Path

{needs}

facts = json.loads(Path("{FACTS}").read_text("utf-8"))
weights = {load}
# {layout.load.format(name=name.partition(":")[2] or name)}
```

One step: {layout.how}."""
    write_card(student, folder, use)


def facts(student: Student) -> dict[str, Any]:
    """What every export says of its run. pixels: an image's side, where samples are latents and conditions prompts."""
    spec, text = student.spec, text_network_of(student.spec)
    what: dict[str, Any] = {"pixels": text.pixels} if text else {"classes": spec.classes}
    return {
        "made_by": "disback-ray", "recipe": student.recipe, "seed": student.seed, "digest": student.digest,
        "weights": "averaged", "shape": list(spec.shape), **what, "sigma_init": getattr(student.network, "sigma_init", None),
    }  # fmt: skip
