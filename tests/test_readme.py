"""What the README says of the tree."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TREE = re.findall(r"^      (\w+)\.py", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)


def test_the_tree_has_every_file_once() -> None:
    files = {file.stem for file in (ROOT / "kdtune").glob("*.py")} - {"__init__"}
    assert sorted(TREE) == sorted(files)


def test_a_file_imports_only_files_above_it() -> None:
    for place, name in enumerate(TREE):
        code = ast.parse((ROOT / "kdtune" / f"{name}.py").read_text(encoding="utf-8"))
        imports = [node for node in ast.walk(code) if isinstance(node, ast.ImportFrom)]
        homes = [node.module or "" for node in imports]
        used = {home.removeprefix("kdtune.") for home in homes if home.startswith("kdtune.")}
        used |= {a.name for node in imports if node.module == "kdtune" for a in node.names}
        assert (used & set(TREE)) <= set(TREE[:place]), name
