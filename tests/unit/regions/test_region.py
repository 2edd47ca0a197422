import numpy as np
import pytest
import torch
from PIL import Image

from fastvmt_pl.clips import Clip, read_clip
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.errors import UserError
from fastvmt_pl.regions import find_region, parse_region
from fastvmt_pl.regions.region import Region, token_shares
from fastvmt_pl.regions.region_picture import region_picture
from fastvmt_pl.toy import ToyWorld
from fastvmt_pl.toy.toy_tracker import colour_mask

SIZE = (48, 48)


@pytest.fixture(scope="module")
def toy():
    return ToyWorld(3, num_objects=1, camera=False)[1]


@pytest.fixture
def clip(toy):
    return Clip(toy.frames, 8.0, "toy")


@pytest.fixture
def masks(toy):
    return colour_mask(toy.frames, toy.objects[0].colour)


def save(mask, path):
    Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(path)
    return str(path)


@pytest.mark.parametrize("given", ["1,2,3", "5,2,3,4", "1,2,nan,4", "1,2,1,4", [4.0, 3.0, 2.0, 1.0]])
def test_what_is_no_box_is_refused(given):
    with pytest.raises(UserError, match="box"):
        parse_region(given)


@pytest.mark.parametrize("given", ["", "  "])
def test_an_empty_text_is_refused(given):
    with pytest.raises(UserError, match="region"):
        parse_region(given)


def test_a_missing_file_is_refused():
    with pytest.raises(UserError, match=r"missing\.png"):
        parse_region("missing.png")


@pytest.mark.parametrize("box", ["-1,0,10,10", "0,0,49,10", "40,40,44,60"])
def test_a_box_outside_the_frame_is_refused(clip, box):
    with pytest.raises(UserError, match="48 x 48"):
        find_region(box, "subject", clip, SIZE)


def test_masks_are_used_as_they_are(clip, masks):
    assert torch.equal(find_region(masks, "subject", clip, SIZE).subject, masks)


def test_a_mask_picture_is_followed(clip, masks, tmp_path):
    region = find_region(save(masks[0], tmp_path / "mask.png"), "subject", clip, SIZE)
    assert torch.equal(region.subject[0], masks[0])
    assert float((region.subject & masks).sum() / (region.subject | masks).sum()) > 0.7


def test_a_folder_of_masks_has_one_for_every_frame_of_the_clip(toy, clip, masks, tmp_path):
    for number, mask in enumerate(masks):
        save(mask, tmp_path / f"{number:03d}.png")
    assert torch.equal(find_region(str(tmp_path), "subject", clip, SIZE).subject, masks)
    (tmp_path / "016.png").unlink()
    with pytest.raises(UserError, match="16 frames"):
        find_region(str(tmp_path), "subject", clip, SIZE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"region .*empty"):
        find_region(str(tmp_path / "empty"), "subject", clip, SIZE)


def test_a_mask_video_is_read_at_the_frames_of_the_clip(toy, masks, tmp_path):
    write_video(tmp_path / "clip.mp4", toy.frames, 8.0)
    write_video(tmp_path / "mask.mp4", (masks[..., None] * 255).to(torch.uint8).expand(-1, -1, -1, 3).contiguous(), 8.0)
    part = Clip(toy.frames[::4], 2.0, "part")
    reading = {"num_frames": 5, "start": 0.0, "end": None, "stride": 4}
    region = find_region(str(tmp_path / "mask.mp4"), "subject", part, SIZE, tmp_path / "clip.mp4", reading)
    assert float((region.subject ^ masks[::4]).float().mean()) < 0.01


def test_a_mask_of_another_size_is_refused(clip, tmp_path):
    with pytest.raises(UserError, match="40 x 40"):
        find_region(save(torch.ones(40, 40, dtype=torch.bool), tmp_path / "mask.png"), "subject", clip, SIZE)
    with pytest.raises(UserError, match="40 x 40"):
        find_region(torch.ones(17, 40, 40, dtype=torch.bool), "subject", clip, SIZE)
    with pytest.raises(UserError, match="17 frames"):
        find_region(torch.ones(9, 48, 48, dtype=torch.bool), "subject", clip, SIZE)


def test_an_empty_mask_is_refused(clip, tmp_path):
    for given in (save(torch.zeros(48, 48), tmp_path / "mask.png"), torch.zeros(17, 48, 48, dtype=torch.bool)):
        with pytest.raises(UserError, match="empty"):
            find_region(given, "subject", clip, SIZE)


def test_a_region_that_leaves_no_background_is_refused_for_the_background_alone(clip):
    everything = torch.ones(17, 48, 48, dtype=torch.bool)
    with pytest.raises(UserError, match="background"):
        find_region(everything, "background", clip, SIZE)
    everything[:, :, :6] = False  # an eighth of the frame
    assert find_region(everything, "background", clip, SIZE).of == "background"
    assert find_region(torch.ones_like(everything), "subject", clip, SIZE).subject.all()


def test_auto_is_refused_where_nothing_moves(toy, tmp_path):
    still = toy.frames[:1].expand(17, -1, -1, -1).contiguous()
    write_video(tmp_path / "still.mp4", still, 8.0)
    for clip in (Clip(still, 8.0, "still"), read_clip(tmp_path / "still.mp4", 17)):
        with pytest.raises(UserError, match="auto, but nothing moves"):
            find_region("auto", "subject", clip, SIZE)


def test_the_whole_frame_is_background_where_nothing_moves(toy):
    still = toy.frames[:1].expand(17, -1, -1, -1).contiguous()
    region = find_region("auto", "background", Clip(still, 8.0, "still"), SIZE)
    assert not region.hidden.any()
    assert torch.allclose(region.camera, torch.eye(3).expand(17, -1, -1), atol=1e-3)


def test_a_broken_mask_is_refused(clip, tmp_path):
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"mask\.png"):
        find_region(str(tmp_path / "mask.png"), "subject", clip, SIZE)


def test_a_region_that_is_lost_early_is_refused_and_later_it_counts_as_gone(clip, masks):
    early, late = masks.clone(), masks.clone()
    early[5:] = late[12:] = False
    with pytest.raises(UserError, match="frame 5 of 17"):
        find_region(early, "subject", clip, SIZE)
    with pytest.warns(UserWarning, match="frame 12 of 17"):
        region = find_region(late, "subject", clip, SIZE)
    subject, _ = region.tokens(9, (12, 12), SIZE)
    assert subject[0, 5].any()
    assert not subject[0, 7:].any()


def test_what_is_cropped_away_is_outside(toy):
    wide = torch.zeros(17, 48, 144, dtype=torch.bool)
    wide[..., :40] = True
    with pytest.raises(UserError, match="empty"):
        find_region(wide, "subject", Clip(torch.zeros(17, 48, 144, 3, dtype=torch.uint8), 8.0, "wide"), SIZE)


def test_token_shares_follow_the_latent_frames():
    masks = torch.zeros(5, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = masks[3, 4:, 4:] = True
    shares = token_shares(masks, 3, (2, 2), (8, 8))  # frames 0; 1 and 2; 3 and 4
    assert shares[0].tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0.5]]


def test_tokens_belong_to_the_subject_with_its_neighbours_or_to_the_background_or_are_hidden():
    masks = torch.zeros(5, 36, 36, dtype=torch.bool)
    masks[:, 16:20, 16:20] = True  # the middle one of 9 x 9 tokens
    others = torch.zeros_like(masks)
    others[:, :4, 32:] = True
    subject, background = Region(masks, others).tokens(3, (9, 9), (36, 36))
    assert subject[0, 0].view(9, 9)[2:7, 2:7].all()
    assert subject[0, 0].sum() == 25
    assert background[0, 0].sum() == 81 - 25 - 1
    assert background[0, 0].view(9, 9)[0, 8] == 0
    subject, background = Region(masks, others, "background").tokens(3, (9, 9), (36, 36))
    assert not subject.any()
    assert background[0, 0].sum() == 79


def test_the_background_is_painted_over_what_is_hidden(clip, masks):
    others = masks.roll(20, 2)
    painted = Region(masks, others).painted(clip.frames)
    assert torch.equal(painted[masks & ~others], clip.frames[masks & ~others])
    assert not torch.equal(painted, clip.frames)
    nothing = Region(masks, torch.zeros_like(masks), "background").painted(clip.frames)
    changed = (nothing.float() - clip.frames.float()).abs().amax(-1)
    assert (changed[masks] > 30).float().mean() > 0.9  # the object is gone
    assert changed[~masks.roll(0)].mean() < 2


def test_the_picture_shows_what_was_followed(clip, masks):
    picture = region_picture(Region(masks, ~masks), clip.frames)
    assert picture.shape == (96, 144, 3)
    assert torch.equal(picture[:48, :48][masks[0]], clip.frames[0][masks[0]])
    assert (picture[:48, :48][~masks[0]] <= clip.frames[0][~masks[0]]).all()
