-- Notes how far a site is, unless its lease has gone to another shim. Behind call.lua.
-- KEYS: 1 position, 2 fence
-- ARGV: 1 fence of the caller's lease, 2 and 3 epoch and number of the position
-- Returns 1, or 0 when the caller is fenced off.

local place = call('HMGET', KEYS[1], 'fence', 'id')
local fence = tonumber(ARGV[1])
if fence < (whole(place[1]) or 0) or fence < (whole(call('HGET', KEYS[2], 'fence')) or 0) then return 0 end

-- A position never moves back.
local epoch, number = string.match(place[2] or '', '^(%d+)-(%d+)$')
epoch, number = whole(epoch) or 0, whole(number) or 0
local to_epoch, to_number = tonumber(ARGV[2]), tonumber(ARGV[3])
if to_epoch > epoch or (to_epoch == epoch and to_number >= number) then
    call('HSET', KEYS[1], 'fence', ARGV[1], 'id', ARGV[2] .. '-' .. ARGV[3])
end
return 1
