-- Appends one frame: numbers it, stores it, announces it; once per frame, whoever comes first.
-- Behind head.lua. KEYS: 2 stream, 3 seen marker of the frame
-- ARGV: 4 frame, 5 received-at ms, 6 clock of that time, 7 entries to keep, 8 ms to keep the
--       marker, 9 channel, 10 name of the bridge, 11 largest frame that goes by pub/sub
-- Returns {entry id, 1 if the frame was there already else 0}, or {'stale'} and nothing is done:
-- the caller has to begin an epoch, and to append again what this server may have forgotten.

if not sound or epoch ~= known_epoch then return {'stale'} end

-- A marker counts from the epoch before this one on: what stands in older ones, sites have left.
local seen = call('GET', KEYS[3])
local seen_epoch = seen and whole(string.match(seen, '^(%d+)-'))
if seen_epoch and seen_epoch >= (whole(head[4]) or 0) then return {seen, 1} end

local id = entry_id(epoch, number + 1)
local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], id,
    'v', '1', 't', ARGV[5], 'c', ARGV[6], 'f', ARGV[4])
if type(added) == 'table' and added.err then
    -- A foreign entry stands at the stream's end, or the stream outlived its head.
    if string.find(added.err, 'equal or smaller', 1, true) then return {'stale'} end
    error('XADD: ' .. added.err)
end

call('HSET', KEYS[1], 'number', string.format('%.0f', number + 1))
call('SET', KEYS[3], id, 'PX', ARGV[8])
if #ARGV[4] <= tonumber(ARGV[11]) then
    call('PUBLISH', ARGV[9],
        'v=1 id=' .. id .. ' t=' .. ARGV[5] .. ' c=' .. ARGV[6] .. '\n' .. ARGV[4])
else
    -- A large frame would overrun subscribers' output buffers: it is announced and read. The
    -- announcement names no clock, as its time is that of the frame.
    call('PUBLISH', ARGV[9], 'v=1 beat=' .. ARGV[10] .. ' id=' .. id .. ' t=' .. ARGV[5] .. '\n')
end
return {id, 0}
