// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice A plain token that anyone may mint; what the hostile ones are made of.
contract PlainToken is ERC20 {
    constructor() ERC20("Plain", "PLN") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// @notice Keeps 1 % of every transfer: the receiver gets less than was said.
contract FeeToken is PlainToken {
    function _update(address from, address to, uint256 value) internal override {
        if (from == address(0) || to == address(0)) return super._update(from, to, value);
        super._update(from, address(0xfee), value / 100);
        super._update(from, to, value - value / 100);
    }
}

/// @notice Takes 1 % on top from the sender: from a pool, that is everybody else's money.
contract SenderFeeToken is PlainToken {
    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (from != address(0) && to != address(0)) super._update(from, address(0xfee), value / 100);
    }
}

/// @notice Moves nothing and says so only by returning false.
contract FalseToken is PlainToken {
    function transfer(address, uint256) public pure override returns (bool) {
        return false;
    }

    function transferFrom(address, address, uint256) public pure override returns (bool) {
        return false;
    }
}

/// @notice Moves nothing and says that it did.
contract SilentToken is PlainToken {
    function transferFrom(address, address, uint256) public pure override returns (bool) {
        return true;
    }
}

/// @notice Honest, but returns nothing, as old tokens do.
contract NoReturnToken {
    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function approve(address spender, uint256 amount) external {
        allowance[msg.sender][spender] = amount;
    }

    function transfer(address to, uint256 amount) external {
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
    }

    function transferFrom(address from, address to, uint256 amount) external {
        allowance[from][msg.sender] -= amount;
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}

/// @notice Balances are shares; anyone can change what a share is worth.
contract RebasingToken is PlainToken {
    uint256 public percent = 100;

    function rebase(uint256 percent_) external {
        percent = percent_;
    }

    function balanceOf(address account) public view override returns (uint256) {
        return super.balanceOf(account) * percent / 100;
    }
}

/// @notice Refuses transfers to and from listed accounts.
contract BlacklistToken is PlainToken {
    mapping(address => bool) public listed;

    error Listed();

    function list(address account, bool on) external {
        listed[account] = on;
    }

    function _update(address from, address to, uint256 value) internal override {
        require(!listed[from] && !listed[to], Listed());
        super._update(from, to, value);
    }
}

/// @notice Calls its target with what it was told, before every transfer, permit and authorization.
contract ReentrantToken is PlainToken {
    address public target;
    bytes public call_;
    bool public tried;
    bool public succeeded;
    bytes public answer;

    function aim(address target_, bytes calldata data) external {
        (target, call_, tried, succeeded) = (target_, data, false, false);
    }

    function permit(address owner, address spender, uint256 value, uint256, uint8, bytes32, bytes32) external {
        _strike();
        _approve(owner, spender, value);
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256,
        uint256,
        bytes32,
        uint8,
        bytes32,
        bytes32
    ) external {
        _transfer(from, to, value);
    }

    function _update(address from, address to, uint256 value) internal override {
        if (from != address(0)) _strike();
        super._update(from, to, value);
    }

    function _strike() private {
        if (target == address(0) || tried) return;
        tried = true;
        (succeeded, answer) = target.call(call_);
    }
}
