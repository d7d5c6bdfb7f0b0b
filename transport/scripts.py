"""The Lua scripts: what must happen in one step on the server.

A script is isolated but not rolled back, so each one checks everything that could go wrong, key
types and last ids too, before its first write. Refusals are error replies whose first word is one
of ours (``HF_…``); whatever else comes back is the server's own trouble.

Arguments are passed flat, a fixed number for each entry, and one ``XADD`` call is made per entry:
``unpack`` of a long table would overrun Lua's stack.
"""

from __future__ import annotations

import hashlib
from typing import Final


class Script:
    """A script and the name under which the server remembers it."""

    __slots__ = ("name", "sha", "source")

    def __init__(self, name: str, *parts: str) -> None:
        self.name = name
        self.source = "\n".join(parts)
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


_COMMON: Final = """
local call = redis.call

local function foreign(key, why)
  return redis.error_reply('HF_FOREIGN ' .. key .. ' ' .. why)
end

local function wrong_type(keys, kinds)
  for i, key in ipairs(keys) do
    local kind = call('TYPE', key)['ok']
    if kind ~= 'none' and kind ~= kinds[i] then
      return foreign(key, 'is a ' .. kind .. ' and must be a ' .. kinds[i])
    end
  end
end

local function fenced(record, epoch, owner)
  local held = call('HMGET', record, 'epoch', 'owner')
  if held[1] ~= epoch or held[2] ~= owner then
    return redis.error_reply('HF_SUPERSEDED ' .. (held[1] or '0'))
  end
end

-- A script that is forbidden its third command has run the first two: ask before the first.
local function denied(commands)
  for _, command in ipairs(commands) do
    if not redis.acl_check_cmd(unpack(command)) then
      return redis.error_reply('NOPERM ' .. command[1] .. ' on ' .. command[2])
    end
  end
end

-- Numbers of 64 bits do not fit Lua's: decimal text is compared by length, then by value.
local function lower(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function below(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return lower(a_ms, b_ms) end
  return lower(a_seq, b_seq)
end

local function field(reply, name)
  for i = 1, #reply, 2 do
    if reply[i] == name then return reply[i + 1] end
  end
end
"""

REGISTER: Final = Script(
    "register",
    """
-- KEYS: registry stream, set of the known. ARGV: book.
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 then return 0 end
redis.call('XADD', KEYS[1], '*', 'book', ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
return 1
""",
)

TAKE_OVER: Final = Script(
    "take over",
    _COMMON,
    """
-- KEYS: commit, inputs, outcomes, payments, notifications, deadletters.
-- ARGV: owner, owner as JSON, the epoch that the record must have, or nothing for any.
local bad = wrong_type(KEYS, {'hash', 'stream', 'stream', 'stream', 'stream', 'stream'})
if bad then return bad end
local epoch = call('HGET', KEYS[1], 'epoch') or '0'
if not string.match(epoch, '^%d+$') or #epoch > 15 then
  return foreign(KEYS[1], 'has no number as its epoch')
end
local seen = ARGV[3]
if seen ~= '' and epoch ~= seen then
  -- Our own takeover, whose answer was lost, is not made twice.
  local ours = epoch == string.format('%.0f', tonumber(seen) + 1)
    and call('HGET', KEYS[1], 'owner') == ARGV[1]
  if ours then return call('HGETALL', KEYS[1]) end
  return redis.error_reply('HF_SUPERSEDED ' .. epoch)
end
epoch = string.format('%.0f', tonumber(epoch) + 1)
bad = denied({
  {'HSET', KEYS[1], 'epoch', epoch}, {'HSETNX', KEYS[1], 'epoch', epoch},
  {'XGROUP', 'CREATE', KEYS[4], 'payments', '0', 'MKSTREAM'}})
if bad then return bad end
local position = call('HGET', KEYS[1], 'position') or '0-0'
if not string.match(position, '^%d+%-%d+$') then
  return foreign(KEYS[1], 'has no entry id as its position')
end
local body = '{"epoch":' .. epoch .. ',"owner":' .. ARGV[2] .. ',"position":"' .. position .. '"}'
local added = redis.pcall(
  'XADD', KEYS[2], '*', 'type', 'taken_over', 'body', body, 'by', 'service:booking')
if type(added) == 'table' then
  -- The greatest id there is, set by somebody's hand, leaves no room for another.
  if string.find(added['err'], 'exhausted') then return foreign(KEYS[2], 'has no ids left') end
  return added
end
for i, group in ipairs({'payments', 'notifications'}) do
  redis.pcall('XGROUP', 'CREATE', KEYS[3 + i], group, '0', 'MKSTREAM')
end
call('HSET', KEYS[1], 'epoch', epoch, 'owner', ARGV[1])
call('HSETNX', KEYS[1], 'position', '0-0')
call('HSETNX', KEYS[1], 'version', '0')
call('HSETNX', KEYS[1], 'digest', '')
return call('HGETALL', KEYS[1])
""",
)

COMMIT: Final = Script(
    "commit",
    _COMMON,
    """
-- KEYS: commit, outcomes, payments, notifications, deadletters, inputs.
-- ARGV: epoch, owner, after, position, version, digest, four counts, the last payment and the last
-- notification that this owner wrote in this epoch (or nothing), the fingerprint of the last input (or
-- nothing), then the entries: outcomes (id, status, body, timers, replayed), payments and notifications
-- (id, action, type, body, trace), dead letters (stream, id, why, fields).
local bad = wrong_type(KEYS, {'hash', 'stream', 'stream', 'stream', 'stream', 'stream'})
  or fenced(KEYS[1], ARGV[1], ARGV[2])
if bad then return bad end
local held = call('HMGET', KEYS[1], 'position', 'digest')
if held[1] ~= ARGV[3] then
  return redis.error_reply('HF_POSITION ' .. (held[1] or '0-0') .. ' ' .. (held[2] or ''))
end
-- A failover may have lost what was read and decided: its outcome would belong to no input, or to another.
local input = call('XRANGE', KEYS[6], ARGV[4], ARGV[4])[1]
local words = {}
for n, name in ipairs({'type', 'key', 'by', 'trace', 'body'}) do
  words[n] = input and field(input[2], name) or ''
end
if not input or ARGV[13] ~= '' and redis.sha1hex(table.concat(words, '\\0')) ~= ARGV[13] then
  return redis.error_reply('HF_LOST ' .. ARGV[4])
end
bad = denied({
  {'HSET', KEYS[1], 'position', '0-0'}, {'XADD', KEYS[2], '*', 'a', 'b'},
  {'XADD', KEYS[3], '*', 'a', 'b'}, {'XADD', KEYS[4], '*', 'a', 'b'},
  {'XADD', KEYS[5], '*', 'a', 'b'}})
if bad then return bad end
local counts = {tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])}
local widths = {5, 5, 5}
local at = 14
for i = 1, 3 do
  local known = i > 1 and ARGV[9 + i] or ''
  if counts[i] > 0 or known ~= '' then
    local last = '0-0'
    if redis.call('EXISTS', KEYS[1 + i]) == 1 then
      last = field(call('XINFO', 'STREAM', KEYS[1 + i]), 'last-generated-id')
    end
    -- Executors begin a stream anew that is gone, so that it is there is no proof.
    if known ~= '' and below(last, known) then
      return foreign(KEYS[1 + i], 'was deleted with what we wrote up to ' .. known)
    end
    if counts[i] > 0 and last ~= '0-0' and not below(last, ARGV[at]) then
      return foreign(KEYS[1 + i], 'has had an entry ' .. last .. ' beyond our next, ' .. ARGV[at])
    end
  end
  at = at + counts[i] * widths[i]
end
local key = KEYS[2]
local i = 14
for _ = 1, counts[1] do
  local timers, replayed = ARGV[i + 3], ARGV[i + 4]
  if timers == '' and replayed == '' then
    call('XADD', key, ARGV[i], 'status', ARGV[i + 1], 'body', ARGV[i + 2])
  else
    local fields = {'status', ARGV[i + 1], 'body', ARGV[i + 2]}
    if timers ~= '' then
      fields[5], fields[6] = 'timers', timers
    end
    if replayed ~= '' then
      fields[#fields + 1], fields[#fields + 2] = 'replayed', replayed
    end
    call('XADD', key, ARGV[i], unpack(fields))
  end
  i = i + 5
end
for kind = 2, 3 do
  key = KEYS[1 + kind]
  for _ = 1, counts[kind] do
    local trace = ARGV[i + 4]
    if trace == '' then
      call('XADD', key, ARGV[i],
        'action', ARGV[i + 1], 'type', ARGV[i + 2], 'body', ARGV[i + 3])
    else
      call('XADD', key, ARGV[i],
        'action', ARGV[i + 1], 'type', ARGV[i + 2], 'body', ARGV[i + 3], 'trace', trace)
    end
    i = i + 5
  end
end
for _ = 1, counts[4] do
  call('XADD', KEYS[5], '*',
    'stream', ARGV[i], 'id', ARGV[i + 1], 'why', ARGV[i + 2], 'fields', ARGV[i + 3])
  i = i + 4
end
call('HSET', KEYS[1], 'position', ARGV[4], 'version', ARGV[5], 'digest', ARGV[6])
return 1
""",
)

SAVE_SNAPSHOT: Final = Script(
    "save snapshot",
    _COMMON,
    """
-- KEYS: commit, the new snapshot. ARGV: epoch, owner, position, data, prefix of snapshot keys.
local bad = wrong_type(KEYS, {'hash', 'string'}) or fenced(KEYS[1], ARGV[1], ARGV[2])
if bad then return bad end
local held = call('HMGET', KEYS[1], 'position', 'snapshot', 'snapshot_before')
local newest, before = held[2] or '', held[3] or ''
if below(held[1], ARGV[3]) then return redis.error_reply('HF_AHEAD ' .. held[1]) end
if newest ~= '' and newest ~= ARGV[3] and not below(newest, ARGV[3]) then return 0 end
call('SET', KEYS[2], ARGV[4])
if newest ~= ARGV[3] then
  call('HSET', KEYS[1], 'snapshot', ARGV[3], 'snapshot_before', newest)
  if before ~= '' then call('DEL', ARGV[5] .. before) end
end
return 1
""",
)

TRIM: Final = Script(
    "trim",
    _COMMON,
    """
-- KEYS: commit, inputs, outcomes, payments, notifications. ARGV: for each stream the group without
-- which it is not trimmed, or nothing; then, where an operator asks for it, the first input to keep and
-- the history that it was looked for in, or nothing. Returns entries removed from the four.
local bad = wrong_type(KEYS, {'hash', 'stream', 'stream', 'stream', 'stream'})
if bad then return bad end
if ARGV[6] and ARGV[6] ~= '' then
  local now = string.match(call('INFO', 'replication'), 'master_replid:(%x+)')
  if now ~= ARGV[6] then return redis.error_reply('HF_HISTORY ' .. (now or 'unknown')) end
end
local older = call('HGET', KEYS[1], 'snapshot_before') or ''
if older ~= '' and ARGV[5] and below(ARGV[5], older) then older = ARGV[5] end

-- The least id that a group may still need: its oldest pending entry, or the last it was given, which
-- is the lesser where somebody moved the group back.
local function needed(key, group)
  local last = field(group, 'last-delivered-id')
  if field(group, 'pending') > 0 then
    local oldest = call('XPENDING', key, field(group, 'name'))[2]
    if below(oldest, last) then return oldest end
  end
  return last
end

local removed = {0, 0, 0, 0}
for i = 1, 4 do
  local key = KEYS[1 + i]
  if call('EXISTS', key) == 1 then
    local least = false
    local missing = ARGV[i] ~= ''
    if not missing then least = older end
    for _, group in ipairs(call('XINFO', 'GROUPS', key)) do
      local id = needed(key, group)
      if field(group, 'name') == ARGV[i] then missing = false end
      if not least or (least ~= '' and below(id, least)) then least = id end
    end
    if least and least ~= '' and not missing then removed[i] = call('XTRIM', key, 'MINID', '=', least) end
  end
end
return removed
""",
)

FINISH: Final = Script(
    "finish actions",
    _COMMON,
    """
-- KEYS: inputs, action stream, deadletters. ARGV: group, counts of results, ids, dead letters, then
-- results (type, body, key, by, trace), ids, dead letters (stream, id, why, fields).
local bad = wrong_type(KEYS, {'stream', 'stream', 'stream'})
if bad then return bad end
bad = denied({
  {'XADD', KEYS[1], '*', 'a', 'b'}, {'XADD', KEYS[3], '*', 'a', 'b'},
  {'XACK', KEYS[2], ARGV[1], '0-0'}})
if bad then return bad end
local results, ids, letters = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local i = 5
for _ = 1, results do
  local entry = {'type', ARGV[i], 'body', ARGV[i + 1]}
  for offset, name in ipairs({'key', 'by', 'trace'}) do
    local value = ARGV[i + 1 + offset]
    if value ~= '' then
      entry[#entry + 1] = name
      entry[#entry + 1] = value
    end
  end
  call('XADD', KEYS[1], '*', unpack(entry))
  i = i + 5
end
local first_id = i
i = i + ids
for _ = 1, letters do
  call('XADD', KEYS[3], '*',
    'stream', ARGV[i], 'id', ARGV[i + 1], 'why', ARGV[i + 2], 'fields', ARGV[i + 3])
  i = i + 4
end
-- Acknowledged last: if anything above fails, the actions are delivered again.
for index = first_id, first_id + ids - 1 do call('XACK', KEYS[2], ARGV[1], ARGV[index]) end
return results
""",
)

KEEP: Final = Script(
    "keep claim",
    """
-- KEYS: action stream. ARGV: group, consumer, ids. Only what is still this consumer's is
-- renewed; returns its ids.
local kept = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) > 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
    kept[#kept + 1] = id
  end
end
return kept
""",
)

CONFIRM: Final = Script(
    "confirm",
    _COMMON,
    """
-- KEYS: commit. ARGV: epoch, owner, position. A write that changes nothing, for WAIT to wait for.
local bad = wrong_type(KEYS, {'hash'}) or fenced(KEYS[1], ARGV[1], ARGV[2])
if bad then return bad end
local position = call('HGET', KEYS[1], 'position')
if position ~= ARGV[3] then return redis.error_reply('HF_POSITION ' .. (position or '0-0')) end
call('HSET', KEYS[1], 'epoch', ARGV[1])
return 1
""",
)

ALL: Final = (REGISTER, TAKE_OVER, COMMIT, CONFIRM, SAVE_SNAPSHOT, TRIM, FINISH, KEEP)
