-- What every script begins with.

-- Redis 7.0 does not name the command that a user may not run in a script.
local function call(name, ...)
    local reply = redis.pcall(name, ...)
    if type(reply) == 'table' and reply.err then error(name .. ': ' .. reply.err) end
    return reply
end

-- A number that a double holds exactly: whole, not negative, below 2^53. nil for anything else.
local function whole(text)
    local number = tonumber(text or '')
    if number and number >= 0 and number < 2^53 - 1 and number % 1 == 0 then return number end
end
