import importlib
import subprocess
import sys

import pytest

PACKAGES = ("detect", "encoders", "evaluate", "finetune", "pretrain")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_that_a_package_offers_is_its_modules_own(package):
    module = importlib.import_module(f"sightline.{package}")
    for name in module.__all__:
        found = getattr(module, name)
        if callable(found):
            assert found.__module__.startswith(f"sightline.{package}.")
            assert found.__name__ == name


@pytest.mark.parametrize("package", PACKAGES)
def test_name_that_a_package_lacks_is_refused_as_python_does(package):
    module = importlib.import_module(f"sightline.{package}")
    with pytest.raises(AttributeError, match=f"module 'sightline.{package}' has no attribute 'x'"):
        module.x  # noqa: B018


def loaded_by(modules, asked):
    code = f"import sys, {', '.join(modules)}; print(*({asked!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_packages_and_their_settings_load_without_torch():
    modules = [f"sightline.{package}" for package in PACKAGES]
    modules += [f"sightline.{package}.config" for package in PACKAGES if package != "encoders"]
    assert not loaded_by(modules, {"torch"})


def test_who_only_waits_for_workers_loads_no_torch():
    modules = ["sightline.__main__", "sightline.pretrain.run", "sightline.training.launch"]
    assert not loaded_by(modules, {"torch", "sklearn", "matplotlib"})


def test_worker_loads_torch_and_nothing_that_is_as_slow():
    modules = ["sightline.__main__", "sightline.pretrain.session"]
    assert loaded_by(modules, {"torch", "sklearn", "matplotlib"}) == {"torch"}
