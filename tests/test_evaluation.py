"""Copies of a module in another dtype: one, for as long as it is up to date."""

import gc
import weakref

import torch
from small_modules import make_model, rows

from skflowmix.evaluation import module_on

CPU = torch.device("cpu")


def test_a_module_serves_in_its_own_dtype_without_a_copy():
    model = make_model()
    assert module_on(model, CPU, torch.float64) is model


def test_a_copy_is_made_once():
    model = make_model()
    copy = module_on(model, CPU, torch.float32)
    assert {p.dtype for p in copy.parameters()} == {torch.float32}
    assert module_on(model, CPU, torch.float32) is copy
    assert {p.dtype for p in model.parameters()} == {torch.float64}


def test_a_module_that_has_changed_is_copied_anew():
    model, x = make_model(), rows(20)
    with torch.no_grad():
        module_on(model, CPU, torch.float32)
        model.weight_logits += torch.tensor([1.0, 0.0, -1.0])
        after = module_on(model, CPU, torch.float32).log_prob(x.float())
        torch.testing.assert_close(after, model.log_prob(x).float())
        model.select_(torch.tensor([2, 0]))
        after = module_on(model, CPU, torch.float32).log_prob(x.float())
        torch.testing.assert_close(after, model.log_prob(x).float())


def test_a_module_made_in_inference_mode_serves():
    with torch.inference_mode():
        model = make_model()
        copy = module_on(model, CPU, torch.float32)
        assert module_on(model, CPU, torch.float32) is copy


def test_a_copy_goes_with_its_module():
    model = make_model()
    copy = weakref.ref(module_on(model, CPU, torch.float32))
    del model
    gc.collect()
    assert copy() is None
