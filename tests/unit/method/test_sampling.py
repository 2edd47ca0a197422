import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from fastvmt_pl.method.sampling import add_noise, denoise, flow_matching_sigmas, job_noise


def test_sigmas_are_shifted_once_and_end_at_zero():
    sigmas = flow_matching_sigmas(50, shift=7.0)
    u = 1 - 20 / 50
    assert len(sigmas) == 51
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    assert sigmas[20] == pytest.approx(7 * u / (1 + 6 * u))


def test_strength_makes_steps_shorter_and_not_fewer():
    sigmas = flow_matching_sigmas(50, shift=7.0, strength=0.75)
    assert len(sigmas) == 51
    assert sigmas[0] == pytest.approx(7 * 0.75 / (1 + 6 * 0.75))


def test_the_true_velocity_leads_to_the_clean_latents():
    clean, noise, sigmas = torch.randn(2, 3, 4), torch.randn(2, 3, 4), flow_matching_sigmas(7, shift=3.0, strength=0.8)
    latents = add_noise(clean, noise, float(sigmas[0]))
    for step in range(7):
        latents = denoise(noise - clean, latents, sigmas, step)
    torch.testing.assert_close(latents, clean)


@pytest.mark.parametrize(("num_steps", "shift", "strength"), [(50, 7.0, 0.75), (30, 3.0, 1.0), (1, 1.0, 0.3)])
def test_a_step_is_that_of_diffusers_scheduler(num_steps, shift, strength):
    sigmas = flow_matching_sigmas(num_steps, shift, strength)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas[:-1].tolist())
    latents = theirs = torch.randn(2, 3, 4)
    for step, timestep in enumerate(scheduler.timesteps):
        velocity = torch.randn(2, 3, 4)
        latents, theirs = denoise(velocity, latents, sigmas, step), scheduler.step(velocity, timestep, theirs)[0]
        assert torch.equal(latents, theirs)


def test_an_edit_of_the_latents_survives_the_step():
    """UniPC's corrector would rebuild the sample from its own memory; Euler takes what it is given."""
    latents, velocity, sigmas = torch.randn(1, 3, 4), torch.randn(1, 3, 4), flow_matching_sigmas(5, shift=3.0)
    edit = torch.randn_like(latents)
    latents = denoise(velocity, latents, sigmas, 0)
    plain, edited = denoise(velocity, latents, sigmas, 1), denoise(velocity, latents + edit, sigmas, 1)
    torch.testing.assert_close(edited - plain, edit)


def test_each_job_has_the_noise_of_its_own_seed():
    noise = job_noise((2, 3), [5, 6])
    assert torch.equal(noise[1], job_noise((2, 3), [6])[0])
    assert not torch.equal(noise[0], noise[1])
