-- Takes or renews the lease of a site: which of its shims is active. Behind call.lua.
-- KEYS: 1 lease, 2 fence, 3 position
-- ARGV: 1 who asks, 2 ms that the lease lasts, 3 greatest fence that the asker knows, 4 the server
--       that the asker speaks to ("run"), 5 '1' when it has just looked
-- Returns {1 if granted else 0, fence, ms that the lease still lasts, position or '', ms for which
-- this server has known the lease}; or {'stale'} when the asker has to look at the server again.

local given = call('HMGET', KEYS[2], 'fence', 'run', 'since')
if given[2] and given[2] ~= ARGV[4] and ARGV[5] ~= '1' then return {'stale'} end

-- What was given before this run of this server, or before it was emptied, it may have forgotten.
local time = call('TIME')
local now, since = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000), whole(given[3])
if given[2] ~= ARGV[4] or not since or since > now then
    since = now
    call('HSET', KEYS[2], 'run', ARGV[4], 'since', string.format('%.0f', since))
end

local held = call('HMGET', KEYS[1], 'holder', 'fence')
local place = call('HMGET', KEYS[3], 'fence', 'id')
local fence, left = whole(held[2]) or 0, call('PTTL', KEYS[1])
local position = place[2] or ''

-- A lease without an end is none that this step has given.
if held[1] and held[1] ~= ARGV[1] and left >= 0 then
    return {0, fence, left, position, now - since}
end

-- The fence grows with each new holder, also when this server has forgotten the newest ones.
local greatest = math.max(whole(given[1]) or 0, whole(place[1]) or 0, whole(ARGV[3]) or 0)
if held[1] ~= ARGV[1] or fence < greatest then
    fence = greatest + 1
    local text = string.format('%.0f', fence)
    call('HSET', KEYS[2], 'fence', text)
    call('HSET', KEYS[1], 'holder', ARGV[1], 'fence', text)
end
call('PEXPIRE', KEYS[1], ARGV[2])
return {1, fence, tonumber(ARGV[2]), position, now - since}
