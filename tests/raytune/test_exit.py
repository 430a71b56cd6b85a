"""A process that ran studies ends well, however slowly: Ray's threads outlive ray.shutdown."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SLOW_EXIT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct call { void (*function)(void *); void *object; };

static void slowly(void *data) {
  struct call *call = data;
  call->function(call->object);
  usleep(10000);
}

/* each static object of Ray's library takes 10 ms more to be destroyed at the process's exit */
int __cxa_atexit(void (*function)(void *), void *object, void *library) {
  int (*next)(void (*)(void *), void *, void *) = dlsym(RTLD_NEXT, "__cxa_atexit");
  Dl_info info;
  if (!dladdr(library, &info) || !info.dli_fname || !strstr(info.dli_fname, "_raylet"))
    return next(function, object, library);
  struct call *call = malloc(sizeof *call);
  *call = (struct call){function, object};
  return next(slowly, call, library);
}
"""

TWO_STUDIES = """
from kdtune.config.study import Study
from kdtune.raytune.session import ray_session

for _ in range(2):
    with ray_session(Study(gpus=0), None):
        pass
"""


@pytest.mark.slow  # half a minute
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and cc")
def test_a_process_whose_objects_die_slowly_does_not_crash(tmp_path: Path) -> None:
    """With Ray's metrics on it ended in SIGSEGV, five times of five: the export found no logger."""
    (tmp_path / "slow.c").write_text(SLOW_EXIT)
    library = tmp_path / "slow.so"
    build = ["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "slow.c"), "-ldl"]
    subprocess.run(build, check=True)
    kept = {k: v for k, v in os.environ.items() if k != "RAY_enable_metrics_collection"}
    environment = kept | {"LD_PRELOAD": str(library), "RAY_metrics_report_interval_ms": "1000"}
    ended = subprocess.run([sys.executable, "-c", TWO_STUDIES], env=environment, timeout=250)
    assert ended.returncode == 0
