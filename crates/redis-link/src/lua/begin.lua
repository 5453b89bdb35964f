-- Begins an epoch, or joins the one that another bridge has begun on this run of this server.
-- Behind head.lua. KEYS: 2 stream; ARGV: 4 now in ms
-- Returns {id before the next entry, 1 if joined else 0}.

-- The newest id that the stream has ever held, also when the head was lost or a foreign entry came.
local last_epoch, last_number = 0, 0
local info = redis.pcall('XINFO', 'STREAM', KEYS[2])
if info.err and not string.find(info.err, 'no such key', 1, true) then
    error('XINFO: ' .. info.err)
end
for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
        local first, second = string.match(info[i + 1], '^(%d+)-(%d+)$')
        last_epoch, last_number = whole(first), whole(second)
        if not last_epoch or not last_number then
            error('stream ends with foreign id ' .. info[i + 1] .. ', delete ' .. KEYS[2])
        end
    end
end

-- Joined is only what was begun by somebody who knew of the caller's epoch: else markers of epochs
-- that sites have left count there.
local knew = sound and (epoch == known_epoch or (whole(head[4]) or 0) >= known_epoch)
if knew and (last_epoch < epoch or (last_epoch == epoch and last_number <= number)) then
    return {entry_id(epoch, number), 1}
end

local begun = math.max(tonumber(ARGV[4]), (epoch or 0) + 1, known_epoch + 1, last_epoch + 1)
call('HSET', KEYS[1], 'epoch', string.format('%.0f', begun), 'number', '0', 'run', ARGV[1],
    'previous', string.format('%.0f', math.max(epoch or 0, known_epoch)))
return {entry_id(begun, 0), 0}
