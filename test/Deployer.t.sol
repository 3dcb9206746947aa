// SPDX-License-Identifier: MIT
pragma solidity 0.8.36;

import {Test} from "forge-std/Test.sol";
import {IDeployer} from "../contracts/interfaces/IDeployer.sol";
import {IInferenceEscrow} from "../contracts/interfaces/IInferenceEscrow.sol";
import {Artifacts} from "../script/Artifacts.sol";

contract Knows {
    address public immutable OTHER;

    constructor(address other) {
        OTHER = other;
    }
}

contract Refuses {
    error Never();

    constructor() {
        revert Never();
    }
}

contract DeployerTest is Test {
    IDeployer internal deployer = IDeployer(Artifacts.deploy("Deployer", abi.encode(address(this))));

    function test_deploy_createsContractsThatKnowEachOther() public {
        bytes[] memory initcodes = new bytes[](2);
        initcodes[0] = abi.encodePacked(type(Knows).creationCode, abi.encode(deployer.addressAt(2)));
        initcodes[1] = Artifacts.initcode(
            "InferenceEscrow",
            abi.encode(
                deployer.addressAt(1),
                IInferenceEscrow.Periods(7 days, 1 days, 600, 300, 3 days, 7 days, 30 days),
                address(1),
                address(2)
            )
        );
        address[] memory created = deployer.deploy(initcodes);
        assertEq(created[0], deployer.addressAt(1));
        assertEq(created[1], deployer.addressAt(2));
        assertEq(Knows(created[0]).OTHER(), created[1]);
        assertEq(IInferenceEscrow(created[1]).ledger(), created[0]);
        assertEq(deployer.count(), 2);
    }

    function test_deploy_inSeveralCalls() public {
        bytes[] memory initcodes = new bytes[](1);
        initcodes[0] = abi.encodePacked(type(Knows).creationCode, abi.encode(address(1)));
        vm.expectEmit(address(deployer));
        emit IDeployer.Created(1, deployer.addressAt(1));
        assertEq(deployer.deploy(initcodes)[0], deployer.addressAt(1));
        vm.expectEmit(address(deployer));
        emit IDeployer.Created(2, deployer.addressAt(2));
        assertEq(deployer.deploy(initcodes)[0], deployer.addressAt(2));
        assertEq(deployer.count(), 2);
    }

    function test_deploy_onlyOwner() public {
        address stranger = makeAddr("stranger");
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IDeployer.NotOwner.selector, stranger, address(this)));
        deployer.deploy(new bytes[](1));
    }

    function test_deploy_refusesNothingAndEmptyCode() public {
        vm.expectRevert(IDeployer.NothingToDeploy.selector);
        deployer.deploy(new bytes[](0));
        vm.expectRevert(abi.encodeWithSelector(IDeployer.CreationFailed.selector, 1));
        deployer.deploy(new bytes[](1));
    }

    function test_deploy_passesTheReasonOfAFailedConstructorOn() public {
        bytes[] memory initcodes = new bytes[](1);
        initcodes[0] = type(Refuses).creationCode;
        vm.expectRevert(Refuses.Never.selector);
        deployer.deploy(initcodes);
        assertEq(deployer.count(), 0);
    }

    function testFuzz_addressAt_isTheCreateAddress(uint64 nonce) public view {
        nonce = uint64(bound(nonce, 1, type(uint64).max - 1));
        assertEq(deployer.addressAt(nonce), vm.computeCreateAddress(address(deployer), nonce));
    }
}
