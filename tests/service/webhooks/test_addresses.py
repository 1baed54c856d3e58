"""Where a webhook may go."""

import pytest

from service.webhooks.addresses import AddressRefused, checked_address, parse_destination

pytestmark = pytest.mark.anyio

INTERNAL = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # where clouds tell secrets
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.2.1",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",  # Teredo for 10.0.0.1
]


@pytest.mark.parametrize("address", INTERNAL)
async def test_a_name_that_leads_inside_is_refused(address: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.215.14", address]

    with pytest.raises(AddressRefused, match="not a public address"):
        await checked_address(parse_destination("https://example.org/", ()), resolve)


@pytest.mark.parametrize("address", [one for one in INTERNAL if ":" not in one])
def test_an_internal_address_is_refused_as_it_is_written(address: str) -> None:
    with pytest.raises(AddressRefused):
        parse_destination(f"https://{address}/in", ())


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://example.org/",
        "https:///in",
        "example.org",
        "https://user:word@example.org/",
        "https://example.org/#part",
        "https://example.org:99999/",
        "https://[::1]/",
        "https://[::1/",
        "https://" + "a" * 70 + ".org/",
    ],
)
def test_what_is_no_address_for_a_webhook_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        parse_destination(url, ())


async def test_public_addresses_are_fine() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        assert (host, port) == ("example.org", 8443)
        return ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]

    assert await checked_address(parse_destination("https://EXAMPLE.org.:8443/", ()), resolve) == "93.184.215.14"


async def test_a_host_that_an_admin_allows_may_be_inside() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["10.0.0.7"]

    for allowed in ("hooks.internal", "hooks.internal:8080"):
        destination = parse_destination("http://hooks.internal:8080/in", [allowed])
        assert await checked_address(destination, resolve) == "10.0.0.7"
    with pytest.raises(AddressRefused):
        parse_destination("http://hooks.internal:8081/in", ["hooks.internal:8080"])


def test_names_of_other_scripts_become_ascii() -> None:
    assert parse_destination("https://bücher.example/", ()).host == "xn--bcher-kva.example"
