"""The scripts that the server runs: each reads and changes one key, or one page of keys, at once.

A key has one string: a line of words, and the text of the record after it ::

    1 WRITER PURGE NUMBER OLDER PUTS

- ``1`` is the format. What has another one is not changed, only replaced.
- ``WRITER`` is the id of the last writer, ``OLDER`` those before it, with commas between.
- ``PURGE`` is when the record is no longer needed, in milliseconds since the Unix epoch.
- ``NUMBER`` grows with every change. It has at most 18 digits, so there is always room above it:
  what has more was written by nobody of ours.
- ``PUTS`` are the ids of the last ones who wrote whatever was there. Every script keeps them, so
  that a put whose answer was lost finds out whether it was carried out before others wrote.

``.`` stands for none. A writer ``.`` marks a key that was cleared; it is kept for a little while
for the sake of its ``PUTS`` and its ``NUMBER``.

Every script answers with the tag that came with it, so that an answer to another request is
noticed; with the server's time; and with what became of it. A script that writes whatever is there
comes with a time after which it is refused: a request that was given up may arrive late.
"""

from __future__ import annotations

import hashlib

from attrs import frozen

FORMAT = b"1"
NONE = b"."
MOST_PUTS = 8
KEYS_PER_PAGE = 500
CLEARED_MS = 60_000
"""For how long a cleared key is marked: longer than any request that began before."""

DONE, REFUSED, LATE, IN_DOUBT = b"done", b"refused", b"late", b"in doubt"
BEHIND = b"behind"


@frozen
class Script:
    """A script, and the hash by which the server knows it."""

    text: str
    sha: str


def _script(*parts: str) -> Script:
    text = "".join(parts)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_TIME = """
local time = redis.call('TIME')
local function answer(...) return {ARGV[1], time[1], time[2], ...} end
"""
_IN_TIME = """
if time[1] * 1000 + time[2] / 1000 > tonumber(ARGV[2]) then return answer('late') end
"""
_READ = """
local function read(key)
  local found = redis.pcall('GET', key)
  if type(found) == 'table' then found = '' end
  if not found then return false, '.', '.', '0' end
  local writer, number, puts = string.match(found, '^1 (%S+) %S+ (%d+) %S+ (%S+)\\n')
  if not number or #number > 18 then return found, nil, nil, '0' end
  return found, writer, puts, number
end
"""
"""What cannot be understood, of another type for example, has no writer, and a number below all."""
_WRITE = """
local function write(head, puts, left, text)
  local value = head .. ' ' .. puts .. '\\n' .. text
  if left == '.' then redis.call('SET', KEYS[1], value)
  else redis.call('SET', KEYS[1], value, 'PX', left) end
end
"""
_BELOW = """
local function below(one, other)
  return #one < #other or (#one == #other and one < other)
end
"""
"""Compares numbers as they are written, since Lua's have 53 bits."""

LOAD = _script(
    _TIME,
    _READ,
    """
return answer('done', (read(KEYS[1])))
""",
)
"""Arguments: tag."""

SWAP = _script(
    _TIME,
    _READ,
    _WRITE,
    """
local found, writer, puts = read(KEYS[1])
if writer ~= ARGV[2] then return answer('refused', found) end
write(ARGV[3], puts, ARGV[4], ARGV[5])
if ARGV[6] == '1' then redis.pcall('PUBLISH', KEYS[1], '') end
return answer('done')
""",
)
"""Arguments: tag, id of the writer seen, head, milliseconds to keep it, text, whether to tell.

Those who wait are told on a channel that is called as the key is. It does not matter if this user
may not do that.
"""

PUT = _script(
    _TIME,
    _IN_TIME,
    _READ,
    _WRITE,
    _BELOW,
    f"""
local _, _, puts, number = read(KEYS[1])
local earlier = {{}}
for put in string.gmatch(puts or '', '[^,.]+') do
  if put == ARGV[3] then return answer('done') end
  earlier[#earlier + 1] = put
end
if ARGV[4] == '1' and #earlier == {MOST_PUTS} then return answer('in doubt') end
if not below(number, ARGV[8]) then return answer('behind', number) end
puts = table.concat({{ARGV[3], unpack(earlier, 1, math.min(#earlier, {MOST_PUTS - 1}))}}, ',')
write(ARGV[5], puts, ARGV[6], ARGV[7])
return answer('done')
""",
)
"""Arguments: tag, latest time, id of this write, whether an earlier try may have been carried out,
head, milliseconds to keep it, text, number. The number grows with every put: so one that lands
late, after more others than their ids are kept, is behind them."""

RESERVE = _script(
    _TIME,
    _READ,
    _WRITE,
    """
local function whole(number) return string.format('%.0f', number) end
local cost, burst, wait = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local longest = tonumber(ARGV[7])
local now = tonumber(ARGV[2]) or time[1] * 1000000 + time[2]
local tat, till, older = now, 0, '-'
local found, writer, puts, number = read(KEYS[1])
if found and writer ~= '.' then
  local text = writer and string.match(found, '\\n(.*)$')
  tat = text and tonumber(string.match(text, '"tat_us":(%-?%d+)'))
  if text == '' then tat = now end
  if not tat then return answer('corrupt') end
  till = tonumber(string.match(text, '"until_us":(%d+)') or '0')
  older = string.match(found, '^1 %S+ %S+ %d+ (%S+)')
  older = string.sub(older == '.' and writer or writer .. ',' .. older, 1, tonumber(ARGV[10]))
end
if writer == ARGV[3] then return answer('done', whole(tat), whole(till), whole(now), found) end
if till <= now or till - now > longest then till = 0 end
if tat - now > burst + longest then tat = math.max(now, till) + burst end
if till > 0 then tat = math.max(tat, till + burst) end
local full = math.max(tat, now) + cost
if full - now > burst + wait then
  return answer('refused', whole(tat), whole(till), whole(now), found)
end
local purge = math.floor(math.max(now, full, till) / 1000) + tonumber(ARGV[8])
local left = purge - math.floor(now / 1000) + tonumber(ARGV[9])
local following = math.max(now, tonumber(number) + 1)
local head = '1 ' .. ARGV[3] .. ' ' .. whole(purge) .. ' ' .. whole(following) .. ' ' .. older
local text = '{"tat_us":' .. whole(full)
if till > 0 then text = text .. ',"until_us":' .. whole(till) end
write(head, puts or '.', whole(left), text .. '}')
return answer('done', whole(full), whole(till), whole(now), redis.call('GET', KEYS[1]))
""",
)
"""Arguments: tag, time, id of this write, cost, burst and wait, and the longest wait, all of these
in microseconds; for how many milliseconds a full bucket is remembered, and kept after that; how
many characters the ids of the earlier writers may have."""

PAGE = _script(
    _TIME,
    f"""
local page = redis.call('SCAN', ARGV[2], 'MATCH', ARGV[3], 'COUNT', {KEYS_PER_PAGE})
local keys = {{}}
for _, key in ipairs(page[2]) do
  local head = redis.pcall('GETRANGE', key, 0, 199)
  local writer, purge
  if type(head) == 'string' then writer, purge = string.match(head, '^1 (%S+) (%S+) ') end
  local ends = purge == '.' and math.huge or purge and tonumber(purge)
  local is_there = writer ~= '.' and ends and ends > tonumber(ARGV[4])
  local is_corrupt = head ~= '' and not ends
  if is_there or is_corrupt then keys[#keys + 1] = key end
end
return answer('done', page[1], keys)
""",
)
"""Arguments: tag, cursor, pattern, time in milliseconds.

What cannot be understood is in the page, so that whoever reads it says so."""

CLEAR = _script(
    _TIME,
    _IN_TIME,
    _READ,
    f"""
local page = redis.call('SCAN', ARGV[3], 'MATCH', ARGV[4], 'COUNT', {KEYS_PER_PAGE})
for _, key in ipairs(page[2]) do
  local _, writer, puts, number = read(key)
  if writer ~= '.' then
    local mark = '1 . 0 ' .. number .. ' . ' .. (puts or '.') .. '\\n'
    redis.call('SET', key, mark, 'PX', {CLEARED_MS})
  end
end
return answer('done', page[1])
""",
)
"""Arguments: tag, latest time, cursor, pattern."""

TIME = _script(_TIME, "return answer('done')")
"""Arguments: tag."""
