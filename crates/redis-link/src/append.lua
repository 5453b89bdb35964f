-- Appends one frame: numbers it, stores it, announces it; once per frame, whoever comes first.
-- KEYS: 1 head, 2 stream, 3 seen marker of the frame
-- ARGV: 1 frame, 2 received-at ms, 3 candidate epoch (now in ms), 4 and 5 newest epoch and number
--       that the caller knows of, 6 entries to keep, 7 ms to keep the marker, 8 channel,
--       9 name of the bridge, 10 largest frame that goes by pub/sub, 11 name of the bridge's clock
-- Returns {entry id, 1 if the frame was there already else 0}.

-- Redis 7.0 does not name the command that a user may not run in a script.
local function call(name, ...)
    local reply = redis.pcall(name, ...)
    if type(reply) == 'table' and reply.err then error(name .. ': ' .. reply.err) end
    return reply
end

local seen = call('GET', KEYS[3])
if seen then return {seen, 1} end

local head = call('HMGET', KEYS[1], 'epoch', 'number')
local epoch, number = tonumber(head[1] or ''), tonumber(head[2] or '')
local candidate = tonumber(ARGV[3])
local known_epoch, known_number = tonumber(ARGV[4]), tonumber(ARGV[5])

local function begin_anew(after)
    epoch, number = math.max(candidate, after + 1), 1
end

if not epoch or not number then
    begin_anew(known_epoch)
elseif epoch < known_epoch or (epoch == known_epoch and number < known_number) then
    -- This server has forgotten writes (failover, old snapshot): its next numbers were given to
    -- other frames already, so a new epoch begins.
    begin_anew(known_epoch)
else
    number = number + 1
end

local function add()
    return redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6],
        string.format('%.0f-%.0f', epoch, number), 'v', '1', 't', ARGV[2], 'c', ARGV[11], 'f', ARGV[1])
end

local id = add()
if type(id) == 'table' and id.err and string.find(id.err, 'equal or smaller', 1, true) then
    -- The stream's last id is not ours to follow: it outlived its head, or a foreign entry stands
    -- at its end.
    local info, last = call('XINFO', 'STREAM', KEYS[2]), 0
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then
            last = tonumber(string.match(info[i + 1], '^(%d+)-')) or 0
        end
    end
    begin_anew(math.max(last, known_epoch))
    id = add()
end
if type(id) == 'table' and id.err then error('XADD: ' .. id.err) end

call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch), 'number', string.format('%.0f', number))
call('SET', KEYS[3], id, 'PX', ARGV[7])
if #ARGV[1] <= tonumber(ARGV[10]) then
    call('PUBLISH', ARGV[8], 'v=1 id=' .. id .. ' t=' .. ARGV[2] .. ' c=' .. ARGV[11] .. '\n' .. ARGV[1])
else
    -- A large frame would overrun subscribers' output buffers: it is announced and read.
    call('PUBLISH', ARGV[8], 'v=1 beat=' .. ARGV[9] .. ' id=' .. id .. ' t=' .. ARGV[3] .. '\n')
end
return {id, 0}
