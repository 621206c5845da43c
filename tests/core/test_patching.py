"""What `pipelines/core/patching.py` lends to a block it takes back: compared byte by byte, also after an error."""

from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from pipelines.core.patching import adapter, edited_outputs, fingerprint, fresh_scheduler, frozen, unchanged


def small_net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)).eval()


def small_unet() -> UNet2DConditionModel:
    torch.manual_seed(5)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return small_unet()


def predict(unet: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 4, 8, 12, generator=generator)
    text = torch.randn(1, 3, 8, generator=generator)
    with torch.no_grad():
        return unet(noise, 500, text).sample


def lora(unet: UNet2DConditionModel, seed: int) -> dict[str, Tensor]:
    """Random low-rank weights for every query and value projection."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, part in unet.named_modules():
        if name.endswith(("to_q", "to_v")):
            weights[f"{name}.lora_A.weight"] = torch.randn(2, part.in_features, generator=generator)
            weights[f"{name}.lora_B.weight"] = torch.randn(part.out_features, 2, generator=generator)
    return weights


def differs(a: Tensor, b: Tensor) -> bool:
    return not torch.equal(a, b)


# ---- edited_outputs ----


def test_an_edit_that_keeps_everything_is_the_identity():
    net, x = small_net(), torch.ones(2, 4)
    plain = net(x)
    with edited_outputs(net, lambda module, output: None):
        assert torch.equal(net(x), plain)


def test_edits_apply_inside_the_block_only_and_add_up_when_nested():
    net, x = small_net(), torch.ones(2, 4)
    before, plain = fingerprint(net), net(x)
    with edited_outputs([net], lambda module, output: output + 1):
        torch.testing.assert_close(net(x), plain + 1)
        with edited_outputs([net], lambda module, output: output * 2):
            torch.testing.assert_close(net(x), (plain + 1) * 2)
        torch.testing.assert_close(net(x), plain + 1)
    assert torch.equal(net(x), plain)
    assert fingerprint(net) == before


def test_modules_may_come_from_a_generator_and_twice():
    net, x = small_net(), torch.ones(2, 4)
    plain = net(x)
    with edited_outputs((part for part in (net, net)), lambda module, output: output + 1):
        torch.testing.assert_close(net(x), plain + 1)
    assert torch.equal(net(x), plain)


def test_an_error_inside_removes_these_hooks_and_no_others():
    net, x = small_net(), torch.ones(2, 4)
    net[0].register_forward_hook(lambda module, args, output: output * 3)  # somebody else's
    before, plain = fingerprint(net), net(x)
    with pytest.raises(ZeroDivisionError), edited_outputs(net.modules(), lambda module, output: output * 0):
        raise ZeroDivisionError
    assert fingerprint(net) == before
    assert torch.equal(net(x), plain)


class Hookless(nn.Identity):
    def register_forward_hook(self, *args: object, **kwargs: object) -> None:
        raise TypeError("this module takes no hooks")


def test_a_module_that_takes_no_hooks_leaves_none_on_the_others():
    net = small_net()
    before = fingerprint(net)
    with pytest.raises(TypeError, match="takes no hooks"), edited_outputs([net[0], Hookless()], lambda *_: None):
        pass
    assert fingerprint(net) == before


# ---- adapter ----


def test_an_adapter_of_scale_zero_changes_nothing(unet):
    plain = predict(unet)
    with adapter(unet, lora(unet, 1), scale=0.0):
        torch.testing.assert_close(predict(unet), plain)


def test_an_adapter_is_worn_inside_the_block_and_gone_to_the_byte_afterwards(unet):
    before, plain, layer = fingerprint(unet), predict(unet), unet.mid_block.attentions[0].proj_in
    query = unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    with adapter(unet, lora(unet, 1)):
        assert differs(predict(unet), plain)
    assert fingerprint(unet) == before
    assert torch.equal(predict(unet), plain)
    assert unet.mid_block.attentions[0].proj_in is layer
    assert unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q is query
    assert not getattr(unet, "peft_config", None)


def test_nested_adapters_add_up_and_the_inner_one_leaves_the_outer_one_alone(unet):
    before = fingerprint(unet)
    with adapter(unet, lora(unet, 2), scale=0.5):
        alone = predict(unet)
    with adapter(unet, lora(unet, 1), scale=0.5):
        outer = predict(unet)
        inside = fingerprint(unet)
        with adapter(unet, lora(unet, 2), scale=0.5):
            both = predict(unet)
            assert differs(both, outer)
            assert differs(both, alone)
        assert torch.equal(predict(unet), outer)
        assert fingerprint(unet) == inside
        with adapter(unet, lora(unet, 2), scale=0.0):
            torch.testing.assert_close(predict(unet), outer)  # adding nothing keeps the outer strength
    assert fingerprint(unet) == before


def test_an_adapter_is_taken_off_when_the_block_raises(unet):
    before = fingerprint(unet)
    with pytest.raises(ZeroDivisionError), adapter(unet, lora(unet, 1)):
        raise ZeroDivisionError
    assert fingerprint(unet) == before


def test_adapters_need_a_diffusers_model():
    with pytest.raises(ValueError, match="Sequential takes no adapters: give a diffusers model"):
        with adapter(small_net(), {}):
            pass


# ---- frozen and unchanged ----


def test_frozen_gives_every_flag_back():
    net = small_net()
    net[1].train()
    net[0].weight.requires_grad_(False)
    before = fingerprint(net)
    with frozen(net):
        assert not any(part.training for part in net.modules())
        assert not any(weight.requires_grad for weight in net.parameters())
    assert fingerprint(net) == before
    with pytest.raises(ZeroDivisionError), frozen(net):
        raise ZeroDivisionError
    assert fingerprint(net) == before


def add_hook(net: nn.Sequential) -> None:
    net[0].register_forward_hook(lambda module, args, output: output)


def replace_part(net: nn.Sequential) -> None:
    net[2] = nn.Identity()


def patch_forward(net: nn.Sequential) -> None:
    net[0].forward = lambda x: x


MISDEEDS: list[tuple[Callable[[nn.Sequential], object], str]] = [
    (lambda net: net.train(), "training was changed"),
    (lambda net: net.half(), "torch.float32 on cpu became torch.float16"),
    (lambda net: net.requires_grad_(False), "requires_grad became False"),
    (add_hook, "forward hooks went from 0 to 1"),
    (replace_part, "2 replaced"),
    (patch_forward, "attribute forward was added"),
]


@pytest.mark.parametrize(("misdeed", "words"), MISDEEDS)
def test_unchanged_puts_back_what_a_block_left_behind_and_says_it(misdeed, words):
    net, x = small_net(), torch.ones(2, 4)
    before, plain = fingerprint(net), net(x)
    with pytest.raises(RuntimeError, match=words), unchanged(net):
        misdeed(net)
    assert fingerprint(net) == before  # after half() too: the very tensors are back, not rounded ones
    assert torch.equal(net(x), plain)


@pytest.mark.parametrize(("misdeed", "words"), MISDEEDS)
def test_unchanged_lets_the_blocks_own_error_pass_and_still_puts_back(misdeed, words):
    net = small_net()
    before = fingerprint(net)
    with pytest.raises(ZeroDivisionError), unchanged(net):
        misdeed(net)
        raise ZeroDivisionError
    assert fingerprint(net) == before


def test_unchanged_reports_weights_that_were_overwritten():
    net = small_net()
    with pytest.raises(RuntimeError, match=r"2\.bias: its numbers were overwritten, drop this model"):
        with unchanged(net), torch.no_grad():
            net[2].bias.add_(1)


def test_unchanged_restores_an_attention_processor(unet):
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    processor = attention.processor
    with pytest.raises(RuntimeError, match="attn1: attribute processor was changed"), unchanged(unet):
        attention.set_processor(AttnProcessor())
    assert attention.processor is processor


def test_a_plain_run_of_a_real_unet_is_no_change(unet):
    with unchanged(unet):
        predict(unet)


# ---- fingerprint and schedulers ----


@pytest.mark.parametrize(("misdeed", "words"), MISDEEDS[:5])
def test_fingerprint_sees_every_kind_of_change(misdeed, words):
    net = small_net()
    before = fingerprint(net)
    misdeed(net)
    assert fingerprint(net) != before


def test_fingerprint_sees_one_bit_of_one_weight_and_of_one_buffer():
    for tensor in ("0.weight", "1.running_mean"):
        net = small_net()
        before = fingerprint(net)
        flat = net.state_dict()[tensor].view(torch.int32).view(-1)
        flat[0] ^= 1
        assert fingerprint(net) != before


def test_fingerprint_sees_a_dtype_even_where_the_bytes_agree():
    zeros = [nn.Linear(2, 2, dtype=dtype) for dtype in (torch.float16, torch.bfloat16)]
    for net in zeros:
        nn.init.zeros_(net.weight)
        nn.init.zeros_(net.bias)
    assert fingerprint(zeros[0]) != fingerprint(zeros[1])


def test_fingerprint_is_the_same_for_the_same_weights_in_another_object():
    assert fingerprint(small_unet()) == fingerprint(small_unet())
    assert fingerprint(small_net().to(torch.bfloat16)) == fingerprint(small_net().to(torch.bfloat16))


def test_a_fresh_scheduler_shares_settings_and_no_steps():
    shared = DDIMScheduler(num_train_timesteps=500, beta_end=0.03)
    shared.set_timesteps(7)
    own = fresh_scheduler(shared)
    own.set_timesteps(3)
    assert (own.config.num_train_timesteps, own.config.beta_end) == (500, 0.03)
    assert (len(shared.timesteps), len(own.timesteps)) == (7, 3)


# ---- two tabs' work, interleaved ----


def wearing(unet: UNet2DConditionModel) -> Tensor:
    """A tab that steers with an adapter."""
    with adapter(unet, lora(unet, 1), scale=0.7):
        return predict(unet)


def damping(unet: UNet2DConditionModel) -> Tensor:
    """A tab that edits what the attention layers say."""
    layers = (part for name, part in unet.named_modules() if name.endswith(("attn1", "attn2")))
    with frozen(unet), edited_outputs(layers, lambda module, output: output * 0.5):
        return predict(unet)


@pytest.mark.parametrize(("first", "second"), [(wearing, damping), (damping, wearing)])
def test_a_tabs_work_is_the_same_before_and_after_another_tabs(unet, first, second):
    before, plain = fingerprint(unet), predict(unet)
    once = first(unet)
    other = second(unet)
    again = first(unet)
    assert torch.equal(once, again)
    assert differs(once, plain)
    assert differs(other, once)
    assert fingerprint(unet) == before
