"""The sandbox's console as people use it: in a real Chromium, over real sockets."""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from qmc_async import ApiError, AsyncQmcClient, CallbackServer, Disconnected, Reason
from qmc_async.sandbox import Action, Attempt, RealClock, Rule, Sandbox, Scenario, VirtualClock
from qmc_async.sandbox.console.snippet import as_pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CALLER, CALLEE = "13987654321", "13912345678"
HIDE = """hidden => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""

# Chromium takes a second to start: one for all, and so one event loop for all.
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """A sandbox in which nobody does anything by himself, 20 times faster than life."""
    idle = Rule(callee=CALLEE, scenario=Scenario(()))
    clock = RealClock(speed=20)
    async with Sandbox(console=True, clock=clock, rules=[idle]) as sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="module")
async def client(sandbox: Sandbox) -> AsyncIterator[AsyncQmcClient]:
    """A client of that sandbox."""
    async with AsyncQmcClient(
        sandbox.credentials.app_id,
        sandbox.credentials.app_secret,
        base_url=sandbox.base_url,
        record_base_url=sandbox.base_url,
    ) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def events(sandbox: Sandbox, client: AsyncQmcClient) -> AsyncIterator[list[Disconnected]]:
    """What a server was notified of by that sandbox."""
    events: list[Disconnected] = []
    server = CallbackServer(signer=client.signer, port=0)

    @server.on_disconnected
    async def keep(event: Disconnected) -> None:
        events.append(event)

    async with server:
        sandbox.callback_url = server.url
        yield events


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        yield browser
        await browser.close()


@asynccontextmanager
async def reading(
    browser: Browser, address: str, *, refused: int = 0, options: dict[str, Any] | None = None
) -> AsyncGenerator[Page]:
    """A page of that address that says nothing on the browser's console.

    But each request that is refused is told there twice: by the browser, and by htmx.
    """
    complaints: list[str] = []
    context = await browser.new_context(**(options or {}))
    page = await context.new_page()
    page.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(address)
    yield page
    await context.close()
    assert len([one for one in complaints if "400" in one]) == 2 * refused
    assert [one for one in complaints if "400" not in one] == []


async def test_a_call_is_acted_in_from_the_first_ring_to_its_recording(
    sandbox: Sandbox, client: AsyncQmcClient, events: list[Disconnected], browser: Browser
) -> None:
    """Both pick up and one hangs up by buttons; the notification is seen, the recording plays."""
    async with (
        reading(browser, sandbox.base_url) as page,
        reading(browser, sandbox.base_url) as other,
    ):
        await expect(page.get_by_text("No call yet.")).to_be_visible()
        call = await client.call(CALLER, CALLEE, out_call_id="order-42")
        row = page.get_by_role("row").filter(has_text="order-42")
        await row.get_by_role("link").click()
        await expect(page).to_have_url(re.compile(f"/calls/{call.call_id}$"))
        await expect(page).to_have_title(re.compile(CALLEE))
        for button in ("caller answers", "callee answers"):
            await page.get_by_role("button", name=button).click()
        await expect(row).to_contain_text("connected")
        # The other tab was left alone all the time.
        await expect(other.get_by_role("row").filter(has_text="order-42")).to_contain_text(
            "connected"
        )
        await talked_for(sandbox, call.call_id, seconds=3)
        await page.get_by_role("button", name="callee hangs up").click()
        await expect(row).to_contain_text("HangUp")
        await expect(page.locator(".timeline li.good").first).to_contain_text("notification 200")
        [event] = events
        assert event.out_call_id == "order-42"
        audio = page.locator("audio")
        await expect(audio).to_be_visible()
        await audio.evaluate(
            "audio => new Promise(done => {"
            " audio.ontimeupdate = () => audio.currentTime > 0.1 && done(); audio.play(); })"
        )
        length: float = await audio.evaluate("audio => audio.duration")
        assert length == event.call_duration.total_seconds()  # type: ignore[union-attr]  # they talked
        await expect(other.get_by_role("row").filter(has_text="order-42")).to_contain_text("HangUp")


async def talked_for(sandbox: Sandbox, call_id: str, *, seconds: int) -> None:
    """Let them talk: as long as their time, not the test's, has it."""
    call = sandbox.calls[call_id]
    assert call.answer_time is not None
    while (left := seconds - (sandbox.clock.now() - call.answer_time).total_seconds()) > 0:  # noqa: ASYNC110 - the clock tells nobody
        await asyncio.sleep(left / 20)


async def test_a_fault_is_switched_on_seen_and_switched_off(
    sandbox: Sandbox, client: AsyncQmcClient, events: list[Disconnected], browser: Browser
) -> None:
    """What a switch says befalls the next call, on every tab, and no longer once it is off."""
    async with (
        reading(browser, f"{sandbox.base_url}/rules") as settings,
        reading(browser, sandbox.base_url) as calls,
    ):
        never_sent = settings.get_by_role("switch", name="the notification is never sent")
        await never_sent.check()
        probability = settings.locator("#rate-drop_notification")
        await expect(probability).to_have_value("1")
        assert sandbox.fault_rates.rates["drop_notification"] == 1
        lost = await client.call(CALLER, CALLEE, out_call_id="lost")
        await sandbox.hang_up(lost)
        row = calls.get_by_role("row").filter(has_text="lost")
        await expect(row).to_contain_text("not sent: a fault")
        await probability.fill("0.25")
        await probability.press("Enter")
        await expect(never_sent).to_be_checked()
        await never_sent.uncheck()
        await expect(probability).to_have_value("0")
        await settings.get_by_role("button", name="Drop the next notification").click()
        await expect(settings.get_by_text("1 to be dropped")).to_be_visible()
        for name in ("dropped", "reported"):
            await sandbox.hang_up(await client.call(CALLER, CALLEE, out_call_id=name))
        await expect(calls.get_by_role("row").filter(has_text="dropped")).to_contain_text("fault")
        await expect(calls.get_by_role("row").filter(has_text="reported")).to_contain_text("200")
        assert [event.out_call_id for event in events] == ["reported"]


async def test_a_rule_is_added_switched_off_and_removed(
    sandbox: Sandbox, client: AsyncQmcClient, browser: Browser
) -> None:
    """A rule of the page decides about calls, as long as it is there and on."""
    async with reading(browser, f"{sandbox.base_url}/rules") as page:
        await page.get_by_text("Add a rule").click()
        form = page.locator("form").filter(has=page.get_by_role("button", name="Add", exact=True))
        await form.get_by_placeholder("*5678").fill("*8888")
        await form.get_by_label("How it ends").select_option("CalleeBusy")
        await form.get_by_label("the recording fails").check()
        await form.get_by_role("button", name="Add").click()
        rule = page.locator("form.rule").filter(has_text="*8888")
        await expect(rule).to_contain_text("callee is busy")
        call = await client.call(CALLER, "13912348888")
        behaviour = sandbox.calls[call.call_id].behaviour
        assert behaviour.scenario == Scenario.for_reason(Reason.CALLEE_BUSY)
        assert behaviour.faults.recording_fails
        await rule.get_by_role("switch").uncheck()
        await expect(rule.get_by_role("switch")).not_to_be_checked()
        assert [rule.enabled for rule in sandbox.rules] == [True, False]
        await rule.get_by_role("button", name="Remove").click()
        await expect(rule).to_have_count(0)
        assert len(sandbox.rules) == 1


@pytest.mark.usefixtures("events")
async def test_what_a_reader_has_open_stays_open(
    sandbox: Sandbox, client: AsyncQmcClient, browser: Browser
) -> None:
    """The raw reply that one reads stays as it is while the page goes on and one resends."""
    call = await client.call(CALLER, CALLEE)
    async with reading(browser, f"{sandbox.base_url}/latest") as page:
        asked = page.locator(".exchange").first
        await asked.locator("summary").click()
        await expect(asked.get_by_text("Authorization: MTY5NjA1…")).to_be_visible()
        await asked.get_by_text("Reply", exact=True).click()
        await expect(asked.get_by_text(f'"callidentifier":"{call.call_id}"')).to_be_visible()
        await sandbox.hang_up(call)
        await expect(page.locator(".exchange")).to_have_count(2)
        await expect(asked.get_by_text(f'"callidentifier":"{call.call_id}"')).to_be_visible()
        await page.get_by_role("button", name="Send the notification again").click()
        await expect(page.locator(".exchange")).to_have_count(3)
        await expect(page.locator(".timeline")).to_contain_text("notification, by hand")
        sent = [
            entry for entry in sandbox.calls[call.call_id].history if isinstance(entry, Attempt)
        ]
        assert [attempt.by_hand for attempt in sent] == [False, True]


async def test_the_test_is_copied(
    sandbox: Sandbox, client: AsyncQmcClient, browser: Browser
) -> None:
    """A button puts the call as a test into the clipboard."""
    call = await client.call(CALLER, CALLEE, out_call_id="order-42")
    sandbox.act(call.call_id, Action.CALLER_BUSY)
    permissions = ["clipboard-read", "clipboard-write"]
    async with reading(
        browser, f"{sandbox.base_url}/calls/{call.call_id}", options={"permissions": permissions}
    ) as page:
        await page.get_by_role("button", name="Copy as pytest").click()
        await expect(page.get_by_role("button", name="Copied")).to_be_visible()
        copied: str = await page.evaluate("() => navigator.clipboard.readText()")
        assert copied == as_pytest(sandbox.calls[call.call_id])


async def test_a_refusal_is_told(
    sandbox: Sandbox, client: AsyncQmcClient, browser: Browser
) -> None:
    """A request that was refused has a page; what a button cannot do is said on the page."""
    async with reading(browser, f"{sandbox.base_url}/requests", refused=1) as page:
        with pytest.raises(ApiError):
            await client.call(CALLER, "139123456789999")
        refused = page.locator(".exchange")
        await expect(refused).to_contain_text("callee号码格式不正确")
        await page.goto(sandbox.base_url)
        await page.get_by_text("Place a call", exact=True).first.click()
        form = page.locator("form").filter(has=page.get_by_label("Callee"))
        await form.get_by_label("Callee").fill("12")
        await form.get_by_role("button").click()
        await expect(page.get_by_role("alert")).to_have_text("callee号码格式不正确")
        await form.get_by_label("Callee").fill(CALLEE)
        await form.get_by_role("button").click()
        await expect(page.get_by_role("alert")).to_be_hidden()
        await expect(page.locator("tbody tr")).to_have_count(1)


async def test_search_and_keys(sandbox: Sandbox, client: AsyncQmcClient, browser: Browser) -> None:
    """Words narrow the list and stay in the address; j, k and Enter open a call without a mouse."""
    for n in range(3):
        await client.call(CALLER, CALLEE, out_call_id=f"order-{n}")
    async with reading(browser, sandbox.base_url) as page:
        rows = page.locator("tbody tr")
        await expect(rows).to_have_count(3)
        await page.keyboard.press("/")
        await page.keyboard.type("ringing ORDER-1")
        await expect(rows).to_have_count(1)
        await expect(page).to_have_url(re.compile(r"search=ringing(\+|%20)ORDER-1"))
        await expect(page.get_by_role("searchbox")).to_be_focused()
        await client.call(CALLER, CALLEE, out_call_id="order-11")  # the stream has the words too
        await expect(rows).to_have_count(2)
        await page.get_by_role("searchbox").fill("")
        await expect(rows).to_have_count(4)
        await page.get_by_role("searchbox").blur()
        for key in ("j", "j", "j", "k"):
            await page.keyboard.press(key)
        await expect(rows.nth(1).get_by_role("link")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator(".one")).to_contain_text("order-2")
        await page.go_back()
        await expect(page.locator(".one")).to_contain_text("Choose a call")


@pytest.mark.usefixtures("events")
async def test_a_telephone_and_another_language(
    sandbox: Sandbox, client: AsyncQmcClient, browser: Browser
) -> None:
    """On a narrow screen nothing is cut off; a Chinese browser reads Chinese."""
    call = await client.call(CALLER, CALLEE, out_call_id="o" * 64)
    await sandbox.hang_up(call)
    narrow: dict[str, Any] = {
        "viewport": {"width": 360, "height": 740},
        "locale": "zh-CN",
        "color_scheme": "dark",
    }
    for path in ("", f"/calls/{call.call_id}", "/rules", "/requests"):
        async with reading(browser, f"{sandbox.base_url}{path}", options=narrow) as page:
            width: int = await page.evaluate("() => document.documentElement.scrollWidth")
            assert width <= 360, path
            await expect(page.get_by_role("navigation")).to_contain_text("呼叫")
            assert await page.evaluate("() => document.documentElement.lang") == "zh-CN"
            await client.call(CALLER, CALLEE)  # what the stream brings is Chinese too
            await expect(page.get_by_role("navigation")).to_contain_text("规则与故障")


async def test_a_hidden_tab_gives_its_stream_back(
    sandbox: Sandbox, client: AsyncQmcClient, browser: Browser
) -> None:
    """A browser opens six connections to a server; a tab shown again has missed nothing."""
    async with reading(browser, sandbox.base_url) as page:
        await expect(page.get_by_text("No call yet.")).to_be_visible()
        await page.evaluate(HIDE, True)  # noqa: FBT003 - as JavaScript has it
        await client.call(CALLER, CALLEE, out_call_id="meanwhile")
        async with reading(browser, sandbox.base_url) as other:
            await expect(other.locator("tbody tr")).to_have_count(1)
        await expect(page.locator("tbody tr")).to_have_count(0)
        await page.evaluate(HIDE, False)  # noqa: FBT003 - the same
        await expect(page.locator("tbody tr")).to_have_count(1)
        await client.call(CALLER, CALLEE)
        await expect(page.locator("tbody tr")).to_have_count(2)


async def test_a_page_survives_the_sandbox(browser: Browser, unused_tcp_port: int) -> None:
    """A page says that the sandbox is gone, and goes on by itself once it is back."""
    sandbox = Sandbox(console=True, port=unused_tcp_port)
    await sandbox.start()
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(sandbox.base_url)
    await sandbox.stop()
    await expect(page.get_by_role("status")).to_be_visible()
    await sandbox.start()
    sandbox.place(CALLER, CALLEE)
    await expect(page.locator("tbody tr")).to_have_count(1, timeout=15_000)
    await expect(page.get_by_role("status")).to_be_hidden()
    await context.close()
    await sandbox.stop()


async def test_a_page_shows_nothing_of_a_sandbox_that_went_before(
    browser: Browser, unused_tcp_port: int
) -> None:
    """A new one at the same address has counted as far as the old one had when it was opened."""
    context = await browser.new_context()
    page = await context.new_page()
    async with Sandbox(console=True, port=unused_tcp_port) as sandbox:
        await page.goto(sandbox.base_url)
        sandbox.place(CALLER, CALLEE)
        await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.get_by_role("status")).to_be_visible()
    async with Sandbox(console=True, port=unused_tcp_port):
        await expect(page.get_by_role("status")).to_be_hidden(timeout=15_000)
        await expect(page.get_by_text("No call yet.")).to_be_visible()
    await context.close()


async def test_a_clock_that_stands_is_shown_where_it_was_moved_to(browser: Browser) -> None:
    """The page's clock does not tick by itself there, and goes on with the sandbox's."""
    async with (
        Sandbox(console=True, clock=VirtualClock()) as sandbox,
        reading(browser, sandbox.base_url) as page,
    ):
        await sandbox.advance(minutes=10)
        await expect(page.locator("#clock")).to_have_text(f"{sandbox.clock.now():%H:%M:%S}")


async def test_a_call_is_acted_in_by_keys(sandbox: Sandbox, browser: Browser) -> None:
    """A button that is gone once it is pressed leaves the focus at the buttons."""
    call = sandbox.place(CALLER, CALLEE)
    async with reading(browser, f"{sandbox.base_url}/calls/{call.call_id}") as page:
        for button, then in (
            ("caller answers", "callee answers"),
            ("callee answers", "callee hangs"),
        ):
            await page.get_by_role("button", name=button).focus()
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("button", name=then)).to_be_visible()
            await expect(page.get_by_role("group", name="Act")).to_be_focused()
            await page.keyboard.press("Tab")
            await expect(page.locator(".acts button").first).to_be_focused()


async def test_nothing_that_is_shown_becomes_a_part_of_the_page(
    sandbox: Sandbox, browser: Browser
) -> None:
    """Not even where it is written for htmx, and comes in the answer to a button."""
    hostile = "<p id=said hx-swap-oob=true hx-get=/x hx-trigger=load>Fake"
    call = sandbox.place(CALLER, CALLEE, out_call_id=hostile)
    async with reading(browser, f"{sandbox.base_url}/calls/{call.call_id}") as page:
        await expect(page.locator("dd").filter(has_text=hostile)).to_be_visible()
        button = page.get_by_role("button", name="caller answers")
        async with page.expect_response(re.compile("/actions$")):
            await button.click()
        await expect(button).to_have_count(0)
        await expect(page.get_by_role("row").filter(has_text=hostile)).to_be_visible()
        await expect(page.locator("#said")).to_be_hidden()
        assert await page.locator("#said").text_content() == ""


async def test_five_thousand_calls(sandbox: Sandbox, browser: Browser) -> None:
    """However many calls there are, the page has fifty, and a new one appears at once."""
    for n in range(5000):
        sandbox.place(CALLER, CALLEE, out_call_id=f"order-{n}")
    async with reading(browser, sandbox.base_url) as page:
        await expect(page.locator("tbody tr")).to_have_count(50)
        await expect(page.get_by_role("navigation")).to_contain_text("5,000")
        sandbox.place(CALLER, CALLEE, out_call_id="the-new-one")
        await expect(page.locator("tbody tr").first).to_contain_text("the-new-one", timeout=1000)
        await page.get_by_text("Older calls").click()
        await expect(page.locator("tbody tr").first).to_contain_text("order-4950")
        await page.get_by_role("searchbox").fill("order-777 ")
        await expect(page.locator("tbody tr")).to_have_count(1)
