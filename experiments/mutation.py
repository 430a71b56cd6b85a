"""Mutation score: the share of small faults, sown in the source, that the tests find.

    python experiments/mutation.py kdtune/statistics --tests tests/statistics --sample 150

A mutant is a file with one change. The tests run on it in a forked process, and the file is
restored. A mutant is killed if a test fails, or if the tests take more processor time than 10 s and
three times what they take without a mutant. Mutants are drawn by a hash of function, operator and
ordinal, so a function that moves to another file has the same ones.
"""

import argparse
import ast
import compileall
import gc
import hashlib
import importlib
import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ("xdist.plugin", "xdist.looponfail", "pytest_timeout")
"""The plugins of pytest that are loaded; others would take a second."""
HEAVY = ("torchvision", "pandas", "scipy.stats", "pingouin", "optuna", "ray", "hypothesis")
"""Imported once, before the forks; the package itself is imported in each fork."""
PAIRS = {
    "comparison": "Lt LtE, Gt GtE, Eq NotEq, Is IsNot, In NotIn",
    "arithmetic": "Add Sub, Pow Mult, FloorDiv Mult, Mult Div",
    "and/or": "And Or",
    "min/max": "min max, minimum maximum, amin amax, any all",
}
SWAPS = {
    old: (operator, new)
    for operator, pairs in PAIRS.items()
    for pair in pairs.split(", ")
    for old, new in (pair.split(), pair.split()[::-1])
}
"""By node of the syntax tree, or name of a function: operator of mutation, what replaces it."""


class Mutant(NamedTuple):
    """One change of a file: the changed line before and after, and the whole source."""

    file: Path
    function: str
    operator: str
    ordinal: int
    before: str
    after: str
    source: str

    def rank(self, seed: int) -> bytes:
        """Return a hash by which mutants are drawn; it ignores a function's becoming private."""
        key = f"{seed} {self.function.lstrip('_')} {self.operator} {self.ordinal}"
        return hashlib.sha256(key.encode()).digest()

    def __str__(self) -> str:
        place = f"{self.file.relative_to(ROOT)}:{self.function}"
        return f"{place}: {self.operator} (`{self.before}` -> `{self.after}`)"


def changes(field: str, part: object) -> Iterator[tuple[str, object]]:
    """Yield (operator, what replaces it) for a part of the syntax tree that is in this field."""
    match field, part:
        case "op" | "ops", ast.AST() if type(part).__name__ in SWAPS:
            operator, new = SWAPS[type(part).__name__]
            yield operator, getattr(ast, new)()
        case "id" | "attr", str() if part in SWAPS:
            yield SWAPS[part]
        case "value", int() | float() if not isinstance(part, bool):
            yield "constant", part + 1 if isinstance(part, int) or part in (0, 1) else part * 2
        case _, ast.UnaryOp(op=ast.Not() | ast.USub() as sign, operand=operand):
            yield "not" if isinstance(sign, ast.Not) else "sign", operand
        case _, ast.Return(value=ast.Constant(value=bool() as value)):
            yield "return", ast.Return(ast.Constant(not value))
        case _, ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield "return", ast.Return(ast.Constant(None))
        case _, ast.AugAssign():
            yield "statement", ast.Pass()


def mutate(node: ast.AST, function: str = "") -> Iterator[tuple[str, str]]:
    """Change the tree at one place after another; yield (function, operator) while it is changed.

    Annotations and assertions stay as they are. Outside functions, what is assigned gives the name.
    """
    is_top = isinstance(node, ast.Module | ast.ClassDef)
    for field, value in ast.iter_fields(node):
        is_list = isinstance(value, list)
        for index, part in enumerate(value if is_list else [value]):
            if field in ("annotation", "returns") or isinstance(part, ast.Assert):
                continue
            own = function
            match part:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    own = f"{function}.{name}".lstrip(".")
                case ast.Assign(targets=[target]) | ast.AnnAssign(target=target) if is_top:
                    own = f"{function}.{ast.unparse(target)}".lstrip(".")
            put = partial(value.__setitem__, index) if is_list else partial(setattr, node, field)
            for operator, new in changes(field, part):
                put(new)
                yield own, operator
                put(part)
            if isinstance(part, ast.AST):
                yield from mutate(part, own)


def mutants_of(file: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file."""
    tree = ast.parse(file.read_text())
    lines = ast.unparse(tree).splitlines()
    seen: Counter[tuple[str, str]] = Counter()
    for place in mutate(tree):
        source = ast.unparse(tree)
        pairs = zip(lines, source.splitlines(), strict=True)
        before, after = next((a.strip(), b.strip()) for a, b in pairs if a != b)
        yield Mutant(file, *place, seen[place], before, after, source)
        seen[place] += 1


def prepare() -> None:
    """Import what all tests need, and make their random examples the same in each run."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.path[0] = str(ROOT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    # a mutant of the source's size and time would otherwise be taken for the source
    mode = PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(ROOT / "kdtune", force=True, quiet=1, invalidation_mode=mode)
    for name in (*HEAVY, *PLUGINS):
        importlib.import_module(name)
    from hypothesis import Phase, settings

    phases = (Phase.explicit, Phase.generate)  # a smaller example is of no use
    settings.register_profile("mutation", derandomize=True, database=None, phases=phases)
    settings.load_profile("mutation")
    gc.freeze()  # collections in the forks pass over what is imported here


def run_tests(arguments: Sequence[str], limit: int = 600) -> tuple[int, float]:
    """Run pytest in a forked process, up to the first failure.

    Returns:
        Its exit code, negative if it exceeded the limit in seconds; the processor time it took.
    """
    sys.stdout.flush()
    pid, code = os.fork(), 1
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            plugins = [f"-p{name}" for name in (*PLUGINS, "no:cacheprovider")]
            options = ["-n0", "-x", "--assert=plain", *plugins]
            code = importlib.import_module("pytest").main([*options, *arguments])
        finally:
            os._exit(code)
    _, status, used = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def report(found: Sequence[tuple[Mutant, int]], total: int) -> None:
    """Print the score of each file and of all as a Markdown table, and the survivors."""
    from scipy.stats import binomtest

    print("\n| file | mutants | killed | survived | score |\n|---|---|---|---|---|")
    for name in [*sorted({str(m.file.relative_to(ROOT)) for m, _ in found}), ""]:
        codes = [code for mutant, code in found if str(mutant.file).endswith(name)]
        n, killed = len(codes), sum(code != 0 for code in codes)
        print(f"| {name or 'all'} | {n} | {killed} | {n - killed} | {100 * killed / n:.1f} % |")
    low, high = binomtest(killed, n).proportion_ci(0.95)
    print(f"\n{n} of {total} mutants, {sum(code < 0 for _, code in found)} killed by the limit.")
    print(f"Score {100 * killed / n:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f} %.")
    print("\nSurvivors:\n")
    print(*sorted(f"- {mutant}" for mutant, code in found if code == 0), sep="\n")


def main() -> None:
    """Draw mutants, run the tests on each, and print the score."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", nargs="+", type=Path, help="files or folders to mutate")
    parser.add_argument("--tests", nargs="+", type=Path, required=True, help="files or folders")
    parser.add_argument("--leave-out", nargs="*", default=[], help="pytest's --deselect")
    parser.add_argument("--only", nargs="+", default=[""], help="how names of functions begin")
    parser.add_argument("--sample", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.chdir(ROOT)
    prepare()
    tests = [str(f) for p in args.tests for f in (sorted(p.rglob("test_*.py")) or [p])]
    files = [ROOT / f for p in args.source for f in (sorted(p.rglob("*.py")) or [p])]
    options = [f"--deselect={name}" for name in args.leave_out]
    code, seconds = run_tests([*tests, *options])
    if code != 0:
        sys.exit(f"the tests fail without a mutant: pytest ended with {code}")
    print(f"The tests take {seconds:.1f} s of processor time without a mutant.")
    named = [m for f in files for m in mutants_of(f) if m.function.startswith(tuple(args.only))]
    every = sorted(named, key=lambda m: m.rank(args.seed))
    found = []
    with suppress(KeyboardInterrupt):  # and report what is done
        for mutant in every[: args.sample]:
            original = mutant.file.read_bytes()
            # the tests of this file first: they are the likeliest to fail
            ordered = sorted(tests, key=lambda test: mutant.file.stem not in Path(test).stem)
            try:
                mutant.file.write_text(mutant.source)
                code, _ = run_tests([*ordered, *options], int(10 + 3 * seconds))
            finally:
                mutant.file.write_bytes(original)
            found.append((mutant, code))
            print("killed" if code else "survived", mutant, file=sys.stderr, flush=True)
    report(found, len(every))


if __name__ == "__main__":
    main()
