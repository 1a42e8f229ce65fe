"""With this folder on PYTHONPATH, accelerate takes a CPU for its GPU: FSDP2 then shards over gloo.

It knows FSDP on GPUs only, and would quietly train by plain data parallelism on a CPU.
"""

import importlib.abc
import importlib.util
import os
import sys

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"


class Hook(importlib.abc.MetaPathFinder):
    """Patches accelerate.state once it has been loaded; to load it here would cost every process seconds."""

    def find_spec(self, name, path, target=None):
        if name != "accelerate.state":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_patch(module):
            load(module)
            asked = module.PartialState._prepare_backend

            def prepare(self, cpu=False, sagemaker_dp=False, backend=None):
                if int(os.environ.get("WORLD_SIZE", "1")) > 1:
                    return "gloo", module.DistributedType.MULTI_GPU
                return asked(self, cpu, sagemaker_dp, backend)

            module.PartialState._prepare_backend = prepare

        spec.loader.exec_module = load_and_patch
        return spec


sys.meta_path.insert(0, Hook())
