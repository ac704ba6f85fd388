"""What the console says, in English and in Chinese. The Chinese terms are the document's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

__all__ = ["CHINESE", "Language", "Translator", "language_of", "translator"]

Language: TypeAlias = Literal["en", "zh-CN"]
Translator: TypeAlias = Callable[[str], str]

CHINESE: Final = {
    "Sandbox": "沙箱",
    "Calls": "呼叫",
    "Rules and faults": "规则与故障",
    "Refused requests": "被拒绝的请求",
    "times faster than life": "倍速",
    "the clock stands until a test moves it": "虚拟时钟，由测试推进",
    "The connection is lost. Trying again…": "连接已断开，正在重试…",
    "Search": "搜索",
    "number, id, state, reason": "号码、标识、状态、原因",
    "Latest call": "最近一次呼叫",
    "Forget ended calls": "清除已结束的呼叫",
    "Forget all calls that have ended?": "清除所有已结束的呼叫？",
    "State": "状态",
    "Caller and callee": "主叫与被叫",
    "Placed": "发起时间",
    "Elapsed": "历时",
    "Notification": "通知",
    "not sent yet": "尚未发送",
    "not sent: a fault": "未发送：故障",
    "No call yet.": "还没有呼叫。",
    "No call matches.": "没有匹配的呼叫。",
    "Place one from your program, or here:": "从你的程序发起，或在此发起：",
    "Older calls": "更早的呼叫",
    "Newer calls": "更新的呼叫",
    "Place a call": "发起呼叫",
    "Caller": "主叫",
    "Callee": "被叫",
    "the callee's last four digits choose what happens": "被叫号码的后四位决定呼叫结果",
    "Choose a call to see what happens to it.": "选择一个呼叫以查看详情。",
    "All calls": "全部呼叫",
    "talk": "通话",
    "Act": "操作",
    "Send the notification again": "重新发送通知",
    "The platform never does that.": "真实平台不会重发。",
    "What happens": "剧本",
    "Faults": "故障",
    "Timeline": "时间线",
    "by hand": "手动",
    "Recording": "录音",
    "There is none, not yet or no more.": "暂无录音，或已过期。",
    "Nobody talked: there is no recording.": "未通话，没有录音。",
    "Requests and replies": "请求与应答",
    "The earlier ones are left out.": "更早的已省略。",
    "Request": "请求",
    "Reply": "应答",
    "there was no reply": "没有应答",
    "As a test": "作为测试",
    "Copy as pytest": "复制为 pytest",
    "Copied": "已复制",
    "Copy": "复制",
    "It uses the fixtures of the extra testing.": "使用 testing 附加包的 fixture。",
    "Rules": "规则",
    "The first one that matches a new call decides, before its last digits do.": (
        "对新呼叫，先匹配的规则优先于被叫后四位。"
    ),
    "There is no rule.": "没有规则。",
    "Add a rule": "添加规则",
    "How it ends": "如何结束",
    "as its digits say": "按后四位",
    "never, until endCall": "不结束，直到 endCall",
    "any": "任意",
    "Probability": "概率",
    "on": "启用",
    "Remove": "删除",
    "Add": "添加",
    "a whole number, or * and its last digits": "完整号码，或 * 加末尾数字",
    "Faults of any call": "任意呼叫的故障",
    "They befall new calls by chance, whatever rule or digits say.": (
        "按概率作用于新呼叫，与规则和后四位无关。"
    ),
    "Drop the next notification": "丢弃下一条通知",
    "to be dropped": "待丢弃",
    "Callback address": "回调地址",
    "Notifications go to": "通知发往",
    "nowhere": "未设置",
    "Set": "设置",
    "On the real platform, its console sets it.": "真实平台在其控制台上设置。",
    "What was asked for and is about no call, the latest first.": (
        "与任何呼叫无关的请求，最新的在前。"
    ),
    "Nothing was refused.": "没有被拒绝的请求。",
    "matches": "匹配",
    # states
    "caller ringing": "主叫振铃",
    "callee ringing": "被叫振铃",
    "connected": "通话中",
    "ended": "已结束",
    # actions
    "caller answers": "主叫接听",
    "caller is busy": "主叫忙",
    "caller does not answer": "主叫无应答",
    "caller cannot be reached": "主叫无法接通",
    "caller hangs up": "主叫挂机",
    "callee answers": "被叫接听",
    "callee is busy": "被叫忙",
    "callee does not answer": "被叫无应答",
    "callee cannot be reached": "被叫无法接通",
    "callee hangs up": "被叫挂机",
    "platform fails": "平台故障",
    "endCall": "endCall（挂断呼叫）",
    # faults
    "drop_notification": "通知不发送",
    "delay_notification": "通知迟到一分钟",
    "duplicate_notification": "通知发送两次",
    "malformed_notification": "通知只有前半截",
    "early_notification": "通知先于 call 的应答",
    "lose_reply": "call 的应答丢失",
    "recording_fails": "录音失败",
    # timeline
    "placed: the caller's telephone rings": "已发起：主叫振铃",
    "the notification is not sent: a fault": "通知未发送：故障",
    "the reply to call is lost: a fault": "call 的应答丢失：故障",
    "notification": "通知",
    "notification, by hand": "通知（手动）",
    "call": "call（发起呼叫）",
    "record: the recording's address is asked for": "record：请求录音地址",
    "the recording is fetched": "录音被下载",
    "the recording is ready": "录音就绪",
    "the recording is deleted": "录音被删除",
}
"""Chinese by English. What is not here is said as it is."""

_PRETTIER: Final = {
    "drop_notification": "the notification is never sent",
    "delay_notification": "the notification is a minute late",
    "duplicate_notification": "the notification is sent twice",
    "malformed_notification": "half of the notification is sent",
    "early_notification": "the notification comes before the reply to call",
    "lose_reply": "the reply to call is lost",
    "recording_fails": "the recording fails",
}


def language_of(accepted: str) -> Language:
    """The language that a browser likes best, of those that there are.

    Args:
        accepted: its ``Accept-Language``, such as ``zh-CN,zh;q=0.9,en;q=0.8``.
    """
    best: Language = "en"
    weight = 0.0
    for part in accepted.split(","):
        name, _, q = "".join(part.split()).lower().partition(";q=")
        language: Language | None = (
            "zh-CN" if name.startswith("zh") else "en" if name.startswith("en") else None
        )
        try:
            liked = float(q or 1)
        except ValueError:
            continue
        if language is not None and liked > weight:
            best, weight = language, liked
    return best


def translator(language: Language) -> Translator:
    """A function from the English text to what is shown."""
    words = CHINESE if language == "zh-CN" else _PRETTIER

    def translate(text: str) -> str:
        return words.get(text, text)

    return translate
