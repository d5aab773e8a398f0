"""The laws of every flow family, at every width D and number of components K."""

from itertools import combinations, permutations

import pytest
import torch
import zuko
from torch import nn

from skflowmix.model.elementwise import Affine, AutogradMap
from skflowmix.model.flows import (
    CONDITIONER_BOUND,
    FLOWS,
    Autoregressive,
    Coupling,
    FlowFamily,
    FlowStack,
)
from skflowmix.model.nn import PosteriorNet, StackedMLP


class Skewed(AutogradMap):
    """A family of one's own: the sinh-arcsinh map, whose slopes differ by side."""

    n_parameters = 2

    def forward(self, x, parameters):
        shift, skew = parameters.unbind(-2)
        inner = x.asinh()
        outer = inner + skew.tanh()
        return outer.sinh() + shift, (outer.cosh() / inner.cosh()).log()

    def inverse(self, z, parameters):
        shift, skew = parameters.unbind(-2)
        return ((z - shift).asinh() - skew.tanh()).sinh()


class AutogradAffine(Affine, AutogradMap):
    """The affine map with autograd's backward."""

    record = AutogradMap.record

    def forward(self, x, parameters):
        shift, raw = parameters.unbind(-2)
        log_slope = raw / self._denominator(raw)
        return shift + x * log_slope.exp(), log_slope.expand_as(x)


OWN = FlowFamily(Coupling, Skewed)
each_family = pytest.mark.parametrize("flow", [*FLOWS, pytest.param(OWN, id="own")])
each_width = pytest.mark.parametrize("n_features", [1, 2, 3, 8])
each_size = pytest.mark.parametrize("n_components", [1, 3])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

AUTOREGRESSIVE = [f for f in FLOWS if FLOWS[f].conditioner is Autoregressive]
COUPLING = [f for f in FLOWS if FLOWS[f].conditioner is Coupling]

N_TRANSFORMS = 4
N_ROWS = 24


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def perturbed(module, size=0.2, seed=1):
    """Add noise to all parameters: at initialisation most laws are trivial."""
    generator = seeded(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += size * noise.to(parameter)
    return module


def make_stack(flow, n_components, n_features, n_transforms=N_TRANSFORMS):
    return FlowStack(
        flow, n_components, n_features, n_transforms, (16, 16), generator=seeded()
    ).double()


def rows(n_components, n_features, n_rows=N_ROWS, size=2.0):
    shape = (n_components, n_rows, n_features)
    return size * torch.randn(shape, generator=seeded(2), dtype=torch.float64)


def jacobian(function, x):
    """Jacobian (K, N, D, D) of a map of rows, by autograd."""
    x = x.clone().requires_grad_()
    z, _ = function(x)
    columns = [
        torch.autograd.grad(column.sum(), x, retain_graph=True)[0]
        for column in z.unbind(2)
    ]
    return torch.stack(columns, 2)


def standard_normal_log_prob(flows, x):
    z, log_det = flows(x)
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(2) + log_det


# The laws.


@each_family
@each_width
@each_size
def test_inverse_undoes_forward(flow, n_features, n_components):
    flows = perturbed(make_stack(flow, n_components, n_features))
    x = rows(n_components, n_features)
    z, _ = flows(x)
    assert (z - x).abs().max() > 0.1
    torch.testing.assert_close(flows.inverse(z), x, rtol=0, atol=1e-8)
    torch.testing.assert_close(flows(flows.inverse(x))[0], x, rtol=0, atol=1e-8)


@each_family
@each_width
@each_size
def test_log_determinant_is_that_of_autograds_jacobian(flow, n_features, n_components):
    flows = perturbed(make_stack(flow, n_components, n_features))
    x = rows(n_components, n_features)
    sign, expected = torch.linalg.slogdet(jacobian(flows, x))
    _, log_det = flows(x)
    assert (sign == 1).all()
    assert log_det.abs().max() > 0.1
    torch.testing.assert_close(log_det, expected, rtol=0, atol=1e-8)


@each_family
@each_width
@each_size
@each_dtype
def test_every_flow_starts_as_the_identity(flow, n_features, n_components, dtype):
    flows = make_stack(flow, n_components, n_features).to(dtype)
    x = rows(n_components, n_features).to(dtype)
    z, log_det = flows(x)
    assert z.dtype == log_det.dtype == dtype
    assert log_det.shape == (n_components, N_ROWS)
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(z, x, rtol=0, atol=tolerance)
    torch.testing.assert_close(log_det, 0 * log_det, rtol=0, atol=8 * tolerance)


@each_family
@each_width
@each_size
def test_slice_of_the_stack_is_the_stand_alone_flow(flow, n_features, n_components):
    flows = perturbed(make_stack(flow, n_components, n_features))
    x = rows(n_components, n_features)
    z, log_det = flows(x)
    for k in range(n_components):
        alone = make_stack(flow, 1, n_features)
        for own, shared in zip(alone.parameters(), flows.parameters(), strict=True):
            own.data = shared.data[k : k + 1]
        for one in (alone, flows.select(torch.tensor([k]))):
            z_k, log_det_k = one(x[k : k + 1])
            torch.testing.assert_close(z_k, z[k : k + 1], rtol=0, atol=1e-12)
            torch.testing.assert_close(
                log_det_k, log_det[k : k + 1], rtol=0, atol=1e-12
            )
            back = one.inverse(z_k)
            torch.testing.assert_close(back, x[k : k + 1], rtol=0, atol=1e-8)


@each_family
@each_width
def test_no_gradient_leaks_between_components(flow, n_features):
    flows = perturbed(make_stack(flow, 3, n_features))
    x = rows(3, n_features).requires_grad_()
    standard_normal_log_prob(flows, x)[1].sum().backward()
    for leaf in (x, *flows.parameters()):
        own = leaf.grad[1]
        assert leaf.grad.shape[0] == 3
        assert own.abs().max() > 0
        assert not leaf.grad[0].any() and not leaf.grad[2].any()


@each_family
@each_width
def test_rows_do_not_see_each_other(flow, n_features):
    flows = perturbed(make_stack(flow, 2, n_features))
    x = rows(2, n_features).requires_grad_()
    standard_normal_log_prob(flows, x)[:, 5].sum().backward()
    others = torch.arange(N_ROWS) != 5
    assert x.grad[:, 5].abs().max() > 0
    assert not x.grad[:, others].any()


@each_family
@each_width
@each_size
def test_gradient_reaches_every_parameter(flow, n_features, n_components):
    flows = perturbed(make_stack(flow, n_components, n_features))
    x = rows(n_components, n_features, n_rows=400)
    standard_normal_log_prob(flows, x).mean().backward()
    for name, parameter in flows.named_parameters():
        assert parameter.shape[0] == n_components
        assert parameter.grad.isfinite().all()
        per_component = parameter.grad.flatten(1).abs().amax(1)
        assert (per_component > 0).all(), name
        if name.endswith(f"layers.{2 if n_features > 1 else 0}.bias"):
            # The outputs are the maps' parameters: each has its own gradient.
            assert (parameter.grad != 0).all(), name


@each_family
@each_width
@each_size
def test_backward_by_hand_agrees_with_finite_differences(
    flow, n_features, n_components
):
    """Of values and log-determinants, along random directions, asked for twice."""
    flows = perturbed(make_stack(flow, n_components, n_features), 0.1)
    x = rows(n_components, n_features, n_rows=6, size=1.0).requires_grad_()
    inputs = [x, *flows.parameters()]
    generator = seeded(3)

    def random_like(tensor):
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        on_z, on_log_det = (random_like(part) for part in flows(x))

    def value():
        z, log_det = flows(x)
        return (z * on_z).sum(), (log_det * on_log_det).sum()

    directions = [random_like(part) for part in inputs]
    step = 1e-7  # a longer one can cross a kink
    slopes = []
    with torch.no_grad():
        for sign in (1, -2):
            for part, direction in zip(inputs, directions, strict=True):
                part += sign * step * direction
            slopes.append(torch.stack(value()))
        for part, direction in zip(inputs, directions, strict=True):
            part += step * direction
    expected = (slopes[0] - slopes[1]) / (2 * step)
    for kind, output in enumerate(value()):
        for _ in range(2):
            gradients = torch.autograd.grad(
                output, inputs, retain_graph=True, materialize_grads=True
            )
            found = sum(
                (gradient * direction).sum()
                for gradient, direction in zip(gradients, directions, strict=True)
            )
            torch.testing.assert_close(found, expected[kind], rtol=1e-5, atol=1e-4)


@each_family
@each_width
@each_dtype
def test_far_rows_stay_finite(flow, n_features, dtype):
    flows = perturbed(make_stack(flow, 2, n_features)).to(dtype)
    magnitudes = [0.0, 3.0, 5.0, 10.0, 1e3, 1e6, 1e9, 1e12]
    directions = torch.cat((rows(2, n_features).sign(), rows(2, n_features)), 1)
    x = torch.cat([m * directions for m in magnitudes], 1).to(dtype).requires_grad_()
    z, log_det = flows(x)
    ((z / (1 + x.detach().abs())).sum() + log_det.sum()).backward()
    assert z.isfinite().all() and log_det.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in flows.parameters())
    assert flows.inverse(x).isfinite().all()


@each_family
@each_width
def test_evaluation_in_float32_is_close_to_float64(flow, n_features):
    flows = perturbed(make_stack(flow, 2, n_features))
    x = rows(2, n_features)
    expected = standard_normal_log_prob(flows, x)
    found = standard_normal_log_prob(flows.float(), x.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


@each_family
def test_no_transforms_are_the_identity(flow):
    flows = make_stack(flow, 2, 3, n_transforms=0)
    x = rows(2, 3)
    z, log_det = flows(x)
    assert torch.equal(z, x) and torch.equal(flows.inverse(x), x)
    assert torch.equal(log_det, x.new_zeros(2, N_ROWS))


@each_family
def test_equal_generators_give_equal_weights(flow):
    one, same = make_stack(flow, 2, 3), make_stack(flow, 2, 3)
    other = FlowStack(flow, 2, 3, N_TRANSFORMS, (16, 16), generator=seeded(7)).double()
    pairs = list(zip(one.parameters(), same.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )


@each_family
def test_select_copies(flow):
    flows = perturbed(make_stack(flow, 3, 2))
    before = [p.detach().clone() for p in flows.parameters()]
    selected = flows.select(torch.tensor([2, 0]))
    for old, new, own in zip(
        before, selected.parameters(), flows.parameters(), strict=True
    ):
        assert torch.equal(new, old[[2, 0]])
        new.data.add_(1.0)
        assert torch.equal(own, old)


# Conditioners.


@pytest.mark.parametrize("flow", AUTOREGRESSIVE)
@pytest.mark.parametrize("n_features", [2, 3, 8])
def test_autoregressive_jacobians_are_triangular(flow, n_features):
    """Even layers run through the columns forwards, odd ones backwards."""
    flows = perturbed(make_stack(flow, 2, n_features))
    x = rows(2, n_features, n_rows=200)
    for position, layer in enumerate(flows.layers):
        jac = jacobian(layer, x).abs().amax((0, 1))
        jac = jac.T if position % 2 else jac
        assert not jac.triu(1).any()
        assert (jac[*torch.tril_indices(n_features, n_features)] > 0).all()


@pytest.mark.parametrize("flow", COUPLING)
@pytest.mark.parametrize("n_features", [2, 3, 5, 8, 9])
def test_all_columns_meet_in_coupling_layers(flow, n_features):
    """Within 2 log2(D) layers each column has parametrised every other one."""
    n_layers = 2 * (n_features - 1).bit_length()
    flows = perturbed(make_stack(flow, 1, n_features, n_layers))
    x = rows(1, n_features, n_rows=200)
    met = torch.zeros(n_features, n_features, dtype=torch.bool)
    for layer in flows.layers:
        jac = jacobian(layer, x).abs().amax((0, 1))
        changed = set((jac.fill_diagonal_(0.0) > 0).any(1).nonzero().flatten().tolist())
        given = set(range(n_features)) - changed
        assert changed and given
        assert not jac[:, sorted(changed)].any()  # changed columns parametrise none
        met |= jac > 0
    for one, other in permutations(range(n_features), 2):
        assert met[one, other], f"{other} never parametrises {one}"


@pytest.mark.parametrize("flow", COUPLING)
@pytest.mark.parametrize("n_features", [2, 3, 8, 17])
def test_any_two_columns_fall_apart_in_the_documented_layers(flow, n_features):
    n_layers = 2 * (n_features - 1).bit_length()
    layers = make_stack(flow, 1, n_features, n_layers).layers
    sides = torch.zeros(n_layers, n_features, dtype=torch.bool)
    for side, layer in zip(sides, layers, strict=True):
        side[layer.changed] = True
        both = torch.cat((layer.given, layer.changed)).sort().values
        assert torch.equal(both, torch.arange(n_features))
    for one, other in combinations(range(n_features), 2):
        assert (sides[:, one] != sides[:, other]).any()


@each_family
@pytest.mark.parametrize("n_features", [2, 3])
def test_conditioners_see_no_further_than_five(flow, n_features):
    """Beyond, the map of one column no longer depends on the others."""
    layer = perturbed(make_stack(flow, 2, n_features, 1)).layers[0]
    x = rows(2, n_features)
    last = n_features - 1  # seen by no other column in an even autoregressive layer
    seen = layer.given[0] if isinstance(layer, Coupling) else 0
    column = layer.changed[0] if isinstance(layer, Coupling) else last
    values = []
    for far in (4.0, 5.0, 6.0, 1e6):
        x[:, :, seen] = far
        values.append(layer(x)[0][:, :, column])
    assert (values[0] - values[1]).abs().max() > 1e-4
    assert torch.equal(values[1], values[2])
    assert torch.equal(values[1], values[3])


# zuko, with copied weights.


def zuko_autoregressive(flow, flows, k):
    """zuko's flow with the weights, biases and masks of component k."""
    n_features = flows.layers[0].conditioner.layers[0].weight.shape[2]
    make = {"maf": zuko.flows.MAF, "nsf-ar": zuko.flows.NSF}[flow]
    with torch.random.fork_rng():
        theirs = make(
            n_features, transforms=len(flows.layers), hidden_features=(16, 16)
        ).double()
    for layer, their_layer in zip(
        flows.layers, theirs.transform.transforms, strict=True
    ):
        linear = [m for m in their_layer.hyper if isinstance(m, nn.Linear)]
        for our, their in zip(layer.conditioner.layers, linear, strict=True):
            their.weight.data = our.weight.data[k]
            their.bias.data = our.bias.data[k]
            their.mask = our.mask.bool()
    return theirs()


def zuko_coupling(flow, flows, k, n_features):
    """zuko's maps and coupling, split by the bits of the column's index."""
    n_bits = (n_features - 1).bit_length()
    transforms = []
    for position, layer in enumerate(flows.layers):
        bit = position // 2 % n_bits
        changed = [d >> bit & 1 == position % 2 for d in range(n_features)]
        network = nn.Sequential()
        for our in layer.conditioner.layers:
            with torch.random.fork_rng():
                linear = nn.Linear(our.weight.shape[2], our.weight.shape[1]).double()
            linear.weight.data, linear.bias.data = our.weight.data[k], our.bias.data[k]
            network.extend([linear, nn.ReLU()])
        network.pop(-1)

        def meta(given, network=network, changed=changed):
            raw = network(given).unflatten(-1, (sum(changed), -1))
            if flow == "realnvp":
                shift, scale = raw.unbind(-1)
                univariate = zuko.transforms.MonotonicAffineTransform(shift, scale)
            else:
                univariate = zuko.transforms.MonotonicRQSTransform(
                    *raw.split((8, 8, 7), -1)
                )
            return zuko.transforms.DependentTransform(univariate, 1)

        mask = ~torch.tensor(changed)
        transforms.append(zuko.transforms.CouplingTransform(meta, mask))
    base = zuko.distributions.DiagNormal(
        torch.zeros(n_features).double(), torch.ones(n_features).double()
    )
    transform = zuko.transforms.ComposedTransform(*transforms)
    return zuko.distributions.NormalizingFlow(transform, base)


@pytest.mark.parametrize("flow", ["realnvp", "maf", "nsf", "nsf-ar"])
@pytest.mark.parametrize("n_features", [2, 3, 8])
def test_density_agrees_with_zuko(flow, n_features):
    """A zuko flow with copied weights gives the same log-density."""
    flows = perturbed(make_stack(flow, 3, n_features), size=0.15)
    x = layer_input = rows(3, n_features, size=1.0).clamp(-2, 2)
    expected = standard_normal_log_prob(flows, x)
    for layer in flows.layers:  # zuko does not clamp what conditioners see
        assert layer_input.abs().max() < CONDITIONER_BOUND
        layer_input, _ = layer(layer_input)
    assert (layer_input - x).abs().max() > 0.3
    for k in range(3):
        if flow in AUTOREGRESSIVE:
            theirs = zuko_autoregressive(flow, flows, k)
        else:
            theirs = zuko_coupling(flow, flows, k, n_features)
        found = theirs.log_prob(x[k])
        torch.testing.assert_close(found, expected[k], rtol=0, atol=1e-8)


# Stacked networks.


def fill(network):
    """Give a network, which starts at zero, weights of its own."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=seeded())


@each_size
@pytest.mark.parametrize("n_inputs", [0, 1, 5])
def test_one_layer_is_a_linear_map_for_each_component(n_components, n_inputs):
    network = StackedMLP(n_components, n_inputs, 4, (), generator=seeded()).double()
    fill(network)
    (layer,) = network.layers
    x = rows(n_components, n_inputs)
    y = network(x)
    for k in range(n_components):
        weight = torch.zeros(4, 0).double() if n_inputs == 0 else layer.weight[k]
        torch.testing.assert_close(y[k], x[k] @ weight.T + layer.bias[k])


def test_mask_cuts_connections():
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    network = StackedMLP(2, 2, 2, (), generator=seeded(), masks=[mask]).double()
    fill(network)
    (layer,) = network.layers
    x = rows(2, 2)
    expected = x * layer.weight.diagonal(dim1=1, dim2=2).unsqueeze(1)
    torch.testing.assert_close(network(x), expected + layer.bias.unsqueeze(1))


@each_size
def test_stacked_network_starts_at_zero_and_is_relu_between(n_components):
    network = StackedMLP(n_components, 3, 2, (7, 6), generator=seeded()).double()
    x = rows(n_components, 3)
    assert not network(x).any()
    perturbed(network)
    for k in range(n_components):
        hidden = x[k]
        for layer in network.layers[:-1]:
            hidden = (hidden @ layer.weight[k].T + layer.bias[k]).clamp(min=0)
        last = network.layers[-1]
        expected = hidden @ last.weight[k].T + last.bias[k]
        torch.testing.assert_close(network(x)[k], expected)


def test_permuted_posterior_permutes_its_logits():
    network = perturbed(PosteriorNet(2, 3, (8,), generator=seeded()).double())
    x = rows(1, 2)[0]
    logits = network(x)
    network.permute_(torch.tensor([2, 0, 1]))
    torch.testing.assert_close(network(x), logits[:, [2, 0, 1]])


@pytest.mark.parametrize("conditioner", [Coupling, Autoregressive])
def test_conditioner_without_hidden_layers_is_linear(conditioner):
    layer = conditioner(2, 3, Affine(), (), 0, generator=seeded())
    perturbed(layer.double())
    x = rows(2, 3)
    torch.testing.assert_close(layer.inverse(layer(x)[0]), x)
    seen = jacobian(layer, x).tril(-1) + jacobian(layer, x).triu(1)
    assert seen.abs().max() > 0


@pytest.mark.parametrize("conditioner", [Coupling, Autoregressive])
def test_backward_by_autograd_is_that_by_hand(conditioner):
    stacks = [
        perturbed(make_stack(FlowFamily(conditioner, elementwise), 2, 3))
        for elementwise in (Affine, AutogradAffine)
    ]
    results = []
    for stack in stacks:
        x = rows(2, 3).requires_grad_()
        z, log_det = stack(x)
        loss = (z.sin() * 3 + log_det.unsqueeze(2).cos()).sum()
        gradients = torch.autograd.grad(loss, [x, *stack.parameters()])
        results.append([z, log_det, *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
