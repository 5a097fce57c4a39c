"""A Lua like the one in which Argo CD runs health scripts and actions of a ConfigMap.

Argo CD's machine is gopher-lua (Lua 5.1 with ``goto``) with the base, package and table libraries and a part of
``os``; ``string``, ``math``, ``io`` and ``debug`` are absent (argo-cd, util/lua/lua.go). LuaJIT with those
libraries taken away behaves the same on Argo CD's own fixtures.
"""

from __future__ import annotations

from typing import Any

from lupa.luajit21 import LuaError, LuaRuntime, lua_type

__all__ = ["NOW", "LuaFailed", "run_lua"]

NOW = "2026-01-01T00:00:00Z"
"""What ``os.date("!%Y-%m-%dT%H:%M:%SZ")`` answers in here."""

_STEPS = 1_000_000

_STRIP = """
local now, limit = ...
local kept = {}
for _, name in ipairs{"_G", "_VERSION", "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall",
    "rawequal", "rawget", "rawset", "select", "setmetatable", "tonumber", "tostring", "type", "unpack", "xpcall",
    "table"} do
  kept[name] = _G[name]
end
debug.sethook(function() error("the script takes too long") end, "", limit)
jit.off()
getmetatable("").__index = nil
local os = {time = os.time, date = function(format)
  if format ~= "!%Y-%m-%dT%H:%M:%SZ" then kept.error("unexpected format") end
  return now
end}
local names = {}
for name in pairs(_G) do names[#names + 1] = name end
for _, name in kept.ipairs(names) do kept._G[name] = nil end
local globals = kept._G
for name, value in kept.pairs(kept) do globals[name] = value end
globals.require = function(name)
  if name == "os" then return os end
  kept.error("module " .. name .. " not found")
end
"""


class LuaFailed(Exception):
    """The script raised an error; the text is its message."""


def run_lua(script: str, **values: Any) -> Any:
    """The value that ``script`` returns, given plain values as globals. Raises LuaFailed."""
    runtime = LuaRuntime(register_eval=False, register_builtins=False, unpack_returned_tuples=True)
    runtime.execute(_STRIP, NOW, _STEPS)
    globals_ = runtime.globals()
    for name, value in values.items():
        globals_[name] = _to_lua(runtime, value)
    try:
        result = runtime.execute(script)
    except LuaError as error:
        raise LuaFailed(str(error)) from None
    return _from_lua(result, next(iter(values.values()), None))


def _to_lua(runtime: LuaRuntime, value: Any) -> Any:
    if isinstance(value, dict):
        return runtime.table_from({key: _to_lua(runtime, item) for key, item in value.items()})
    if isinstance(value, list):
        return runtime.table_from([_to_lua(runtime, item) for item in value])
    return value


def _from_lua(value: Any, was: Any) -> Any:
    """Plain values again. An empty table is what it was in the input, else a list, as in Argo CD."""
    if lua_type(value) != "table":
        return value
    keys = list(value.keys())
    if not keys:
        return {} if isinstance(was, dict) else []
    if keys == list(range(1, len(keys) + 1)):
        before = was if isinstance(was, list) else []
        return [_from_lua(value[key], before[key - 1] if key <= len(before) else None) for key in keys]
    before_ = was if isinstance(was, dict) else {}
    return {key: _from_lua(value[key], before_.get(key)) for key in keys}
