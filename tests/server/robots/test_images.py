import numpy as np
import pytest
from vlascope_server.robots.images import places_with_pad, resample_with_pad, resize_with_pad


@pytest.mark.parametrize("name", ["480x640", "256x256", "100x161", "224x224", "batch60x80"])
def test_resize_equals_the_reference(golden, rows, name):
    found = resize_with_pad(golden[f"resize/pil/{name}/in"], 224)
    expected = golden[f"resize/pil/{name}/out"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(rows(found, expected), expected)


def test_float_resample_equals_the_reference(golden, rows):
    image = golden["resize/jax/120x160_float/in_uint8"].astype(np.float32) / 255.0 * 2.0 - 1.0
    found = resample_with_pad(image, 224)
    expected = golden["resize/jax/120x160_float/out"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(rows(found, expected), expected, atol=5e-6)


def test_uint8_resample_equals_the_reference(golden, rows):
    found = resample_with_pad(golden["resize/jax/256x256_uint8/in"], 224)
    expected = golden["resize/jax/256x256_uint8/out"]
    assert found.dtype == np.uint8
    difference = np.abs(rows(found, expected).astype(int) - expected)
    # a sum that lands on a half may round either way
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize(
    ("resize", "dtype", "black"),
    [(resize_with_pad, np.uint8, 0), (resample_with_pad, np.uint8, 0), (resample_with_pad, np.float32, -1)],
)
@pytest.mark.parametrize("shape", [(3, 500, 3), (500, 3, 3), (33, 64, 3)])
def test_bars_are_black_and_the_image_is_centred(resize, dtype, black, shape):
    found = resize(np.ones(shape, dtype), 112)
    height, width = (max(1, int(n / (max(shape) / 112))) for n in shape[:2])
    top, left = (112 - height) // 2, (112 - width) // 2
    expected = np.full((112, 112, 3), black, dtype)
    expected[top : top + height, left : left + width] = 1
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == dtype


def test_resampling_to_the_same_size_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resample_with_pad(image, 32), image)
    assert resize_with_pad(image, 32) is image


def test_resample_refuses_other_dtypes():
    with pytest.raises(ValueError, match="found float64"):
        resample_with_pad(np.zeros((4, 4, 3)), 8)


def test_places_go_where_the_image_goes():
    image = np.zeros((60, 80, 3), np.uint8)
    image[40:44, 8:12] = 255
    row, column = np.argwhere(resize_with_pad(image, 40)[..., 0] > 128).mean(axis=0) + 0.5
    np.testing.assert_allclose(
        places_with_pad(np.array([10 / 80, 42 / 60]), 60, 80, 40), [column / 40, row / 40], atol=0.01
    )
    np.testing.assert_array_equal(places_with_pad(np.array([[0.2, 0.9]]), 32, 32, 32), [[0.2, 0.9]])
