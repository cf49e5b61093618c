"""What the service tells of itself."""

from __future__ import annotations

import json
import re
from importlib.metadata import version

from prometheus_client.parser import text_string_to_metric_families
from tests.service.conftest import LIMITS, PIXELS, Client, GatedCodec, packed


def _samples(client: Client) -> dict[tuple[str, ...], float]:
    """Name and label values -> value."""
    text = client.get("/metrics").body.decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_info_names_model_engine_and_limits(client: Client, demo_codec: GatedCodec) -> None:
    told = json.loads(client.get("/info").body)
    manifest = demo_codec.bundle.manifest
    assert told["version"] == version("glc-deploy")
    assert told["engine"] == demo_codec.engine
    assert told["model"]["model_id"] == manifest.model_id[:8]
    assert told["model"]["highest_quality"] == demo_codec.qualities - 1
    assert told["limits"]["pixels"] == LIMITS.pixels
    assert told["limits"]["body_bytes"] == LIMITS.body_bytes


def test_metrics_count_requests_bytes_and_stages(client: Client) -> None:
    before = _samples(client)
    data = packed(PIXELS)
    made = client.post("/encode", data).body
    client.post("/encode", b"GIF89a")
    for path in ("/one", "/two", "/three"):
        client.get(path)
    after = _samples(client)

    def grown(*key: str) -> float:
        return after.get(key, 0.0) - before.get(key, 0.0)

    assert grown("glc_requests_total", "/encode", "200") == 1
    assert grown("glc_requests_total", "/encode", "415") == 1
    assert grown("glc_requests_total", "other", "404") == 3
    assert not [key for key in after if "/one" in key]
    assert grown("glc_received_bytes_total", "/encode") == len(data) + 6
    assert grown("glc_sent_bytes_total", "/encode") > len(made)
    assert grown("glc_pixels_total", "/encode") == PIXELS.shape[0] * PIXELS.shape[1]
    assert grown("glc_request_seconds_count", "/encode") == 2
    assert grown("glc_stage_seconds_count", "/encode", "analysis") == 1
    assert after[("process_resident_memory_bytes",)] > 1 << 20


def test_the_document_describes_bodies_answers_and_problems(client: Client, demo_codec: GatedCodec) -> None:
    paths = client.document["paths"]
    assert set(paths) == {"/encode", "/decode", "/preview", "/info", "/healthz", "/metrics", "/"}
    encode = paths["/encode"]["post"]
    assert set(encode["requestBody"]["content"]) == {
        *("image/png", "image/jpeg", "image/webp"),
        "application/octet-stream",
    }
    quality, encoder = encode["parameters"]
    assert encoder["schema"]["enum"] == ["default"]
    assert quality["schema"]["maximum"] == demo_codec.qualities - 1
    assert {"408", "413", "415", "422", "500", "503"} <= set(encode["responses"])
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(client.document)))
    assert "Problem" in references
    assert references == set(client.document["components"]["schemas"])


def test_the_page_loads_nothing_from_elsewhere(client: Client) -> None:
    reply = client.get("/")
    html = reply.body.decode()
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", html)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
